"""Forming dW: every setting is measured, and its numbers are those that it says."""

import json

import pytest

from glora_lib.benchmark.forming import SETTINGS, adapted, main, one


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_measured_round_by_round(name):
    found = one(name, rounds=2, width=48, depth=2)
    assert found["numbers"] == 4 * 48 * 48
    assert found["parameters"] == sum(p.numel() for p in adapted(name, 48, 2).groups.parameters())
    assert [len(found[kind]) for kind in ("forming", "with_gradients")] == [2, 2]
    assert min(found["making"], *found["forming"], *found["with_gradients"]) > 0
    assert found["memory_mb"] >= 0


def test_one_setting_is_printed_as_json(capsys, monkeypatch):
    monkeypatch.setattr("glora_lib.benchmark.forming.one", lambda name, rounds: {"name": name, "rounds": rounds})
    assert main(["--one", "dense", "--rounds", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "dense", "rounds": 3}
