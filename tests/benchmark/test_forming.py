"""Forming dW: every setting is measured, and its numbers are those that it says."""

import json

import pytest

from glora_lib.benchmark.forming import SETTINGS, adapted, main, one, table
from glora_lib.runs.record import Record


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


def test_its_table_has_medians():
    row = {"parameters": 5, "numbers": 9, "forming": [3.0, 1.0, 2.0], "with_gradients": [4.0, 6.0, 5.0], "memory_mb": 7.0}
    record = Record(
        "benchmark_forming", "vit_b_qv", "all", "cpu", 0, {}, {}, config=None, selected_on="nothing", cost={}, provenance={},
        history={"a": row},
    )  # fmt: skip
    assert table(record).to_dict("records") == [
        {"setting": "a", "parameters": 5, "numbers": 9, "forming (s)": 2.0, "with gradients (s)": 5.0, "MB more": 7.0}
    ]
