"""Runs computed once more: the same code gives every bit again, and a difference is held against its tolerance."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from glora_lib import recompute
from glora_lib.runs import record
from glora_lib.runs import run as run_module
from glora_lib.runs.grid import Run, fill
from glora_lib.runs.profiles import SMOKE
from glora_lib.runs.record import Record

METHODS = ("linear", "lora", "glora")


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A folder with the records of three runs and with what the runs left."""
    root, threads = tmp_path_factory.mktemp("first"), torch.get_num_threads()
    torch.set_num_threads(1)  # as in every test here: threads are among what two records are held against
    with pytest.MonkeyPatch.context() as patch:
        place(patch, root)
        assert fill([Run(recompute.FIRST, "gratings", method, SMOKE) for method in METHODS]) == []
    torch.set_num_threads(threads)
    return root


def place(patch, root) -> None:
    patch.setattr(run_module, "CACHE", root / "cache")
    patch.setattr(record, "ROOT", root)


@pytest.fixture(autouse=True)
def first(computed, tmp_path, monkeypatch, one_thread) -> list[Run]:
    """Three runs with their records in a folder of the test's own."""
    shutil.copytree(computed, tmp_path, dirs_exist_ok=True)
    place(monkeypatch, tmp_path)
    return [Run(recompute.FIRST, "gratings", method, SMOKE) for method in METHODS]


def test_the_same_code_gives_every_image_and_choice_again(first, capsys):
    before = [run.path.read_bytes() for run in first]
    assert recompute.main(["--profile", "smoke", "--number", "3"]) == 0
    table = recompute.compare("smoke").set_index("method").loc[list(METHODS)]
    assert list(table["images"]) == list(table["tolerance"]) == [0, 0, 0]
    assert table.loc["glora", "choices"] == 1
    assert math.isnan(table.loc["lora", "choices"])
    assert [run.path.read_bytes() for run in first] == before
    assert "gratings" in capsys.readouterr().out


def test_it_is_computed_and_not_read_from_what_the_first_run_left(first):
    fill(first, "missing")
    left = first[2].supernet.state("train.pt")
    stamp = left.stat().st_mtime_ns
    fill([replace(first[2], experiment=recompute.AGAIN)], "all")
    assert left.stat().st_mtime_ns != stamp


@pytest.mark.parametrize(
    ("images", "code", "within"), [(0, "", True), (1, "", False), (5, "0" * 40, True), (6, "0" * 40, False)]
)
def test_a_difference_is_held_against_the_tolerance(first, images, code, within):
    """Of 64 images half are right: sqrt(2 * .25 * 64) = 5.66 images on other code, none on the same."""
    fill([replace(first[1], experiment=recompute.AGAIN)])
    for path, test in ((first[1].path, 0.5), (replace(first[1], experiment=recompute.AGAIN).path, 0.5 + images / 64)):
        data = json.loads(path.read_text())
        data["metrics"]["test"] = test
        if code and recompute.AGAIN in str(path):
            data["provenance"]["commit"] = code
        path.write_text(json.dumps(data))
    row = recompute.compare("smoke").iloc[0]
    assert (row["images"], row["within"]) == (images, within)
    assert recompute.main(["--profile", "smoke", "--number", "0"]) == (0 if within else 1)


def test_more_records_than_there_are_cannot_be_drawn():
    with pytest.raises(ValueError, match="number 9 is not between 0 and 3"):
        recompute.draw(SMOKE, 9, 0)
    with pytest.raises(ValueError, match="between 0 and 1, the records of lora with"):
        recompute.draw(SMOKE, 2, 0, "lora")


def test_the_records_of_one_method_alone_can_be_drawn():
    assert [run.method for seed in range(5) for run in recompute.draw(SMOKE, 1, seed, "lora")] == ["lora"] * 5


def test_a_record_of_other_settings_is_not_drawn(first):
    data = json.loads(first[0].path.read_text())
    data["settings"]["epochs"] += 1
    first[0].path.write_text(json.dumps(data))
    assert {run.method for run in recompute.draw(SMOKE, 2, 0)} == {"lora", "glora"}
    assert Record.load(first[0].path).settings["epochs"] == SMOKE.epochs + 1


def test_without_a_second_record_the_table_is_empty_but_has_its_columns():
    assert {"images", "tolerance", "within"} <= set(recompute.compare("smoke"))
    assert recompute.compare("smoke").empty
