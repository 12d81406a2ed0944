"""Kept adapters: a run's model comes back from its file with the accuracy that was recorded."""

from dataclasses import replace

import pytest

from glora_lib.data import load_task
from glora_lib.methods.adapter_format import AdapterError
from glora_lib.runs import kept, record
from glora_lib.runs import run as run_module
from glora_lib.runs.grid import Run, fill
from glora_lib.runs.profiles import SMOKE
from glora_lib.runs.record import Record
from glora_lib.training.accuracy import accuracy

PROFILE = replace(SMOKE, epochs=1, population=4, parents=2, mutations=2, crossovers=2, generations=1)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch, one_thread):
    """Records, adapters and unfinished stages go to a temporary folder."""
    monkeypatch.setattr(run_module, "CACHE", tmp_path / "cache")
    for module in (record, kept):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def run(method: str) -> Run:
    return Run("smoke", "gratings", method, PROFILE)


@pytest.mark.parametrize("method", ["glora", "fact_tk", "vpt_deep"])
def test_a_kept_model_has_the_recorded_accuracy(method):
    found = run(method)
    kept.ensure([found])
    task, recorded = load_task("gratings", PROFILE), Record.load(found.path)
    model = kept.load(found)
    assert accuracy(model, task.test) == recorded.metrics["test"]
    assert accuracy(model, task.val) == recorded.metrics["val"]
    assert kept.path(found).stat().st_size < 2e6


def test_another_processor_may_differ_by_three_images_and_this_one_by_none():
    found = run("lora")
    kept.ensure([found])
    assert kept.allowed(found) == 0
    recorded = Record.load(found.path)
    here = dict(recorded.provenance)
    for changed in ({"processor": "another"}, {"device": "cuda"}):
        recorded.provenance = here | changed
        recorded.save()
        assert kept.allowed(found) == 3


def test_what_is_kept_is_not_computed_again(root):
    found = run("lora")
    kept.ensure([found])
    before = kept.path(found).read_bytes(), found.path.read_bytes()
    kept.ensure([found])
    assert (kept.path(found).read_bytes(), found.path.read_bytes()) == before


@pytest.mark.parametrize("method", ["linear", "full", "noah", "supernet", "glora_fixed"])
def test_what_leaves_no_adapter_is_refused_by_name(root, method):
    with pytest.raises(ValueError, match=f"result of '{method}' cannot be kept as an adapter; valid: glora, .*lora"):
        kept.keep(run(method))


def test_runs_are_found_by_their_adapters(root):
    found = run("lora")
    assert kept.runs_of("smoke", PROFILE) == []
    kept.ensure([found])
    assert kept.runs_of("smoke", PROFILE) == [found]
    assert kept.runs_of("vtab1k", PROFILE) == kept.runs_of("smoke", replace(PROFILE, name="cpu")) == []


def test_a_run_that_left_no_checkpoint_says_so_or_is_computed_again(root):
    found = run("lora")
    fill([found])
    (found.state("train.pt")).unlink()
    with pytest.raises(FileNotFoundError, match="gratings--lora--smoke--s0 left no checkpoint at .*compute the run again"):
        kept.ensure([found], compute="none")
    kept.ensure([found])
    assert kept.path(found).exists()


def test_a_damaged_adapter_is_refused(root):
    found = run("lora")
    kept.ensure([found])
    kept.path(found).write_bytes(kept.path(found).read_bytes()[:-1])
    with pytest.raises(AdapterError, match="truncated or edited"):
        kept.load(found)
