"""The grid: what is missing is computed and recorded, what exists is kept, and what is asked for wrongly is refused."""

import json
import time
from dataclasses import replace

import pytest
import torch

from glora_lib.glora.space import Space, from_json
from glora_lib.measures.sizes import NOT_FUSABLE
from glora_lib.methods import METHODS
from glora_lib.runs import grid, record
from glora_lib.runs import run as run_module
from glora_lib.runs.grid import Run, execute, fill
from glora_lib.runs.profiles import SMOKE
from glora_lib.runs.record import Record, RecordError, results
from glora_lib.training import deadline
from glora_lib.training.batch import TrainingError

PROFILE = replace(SMOKE, epochs=1, population=4, parents=2, mutations=2, crossovers=2, generations=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Records and unfinished stages go to a temporary folder, which the tests of this file share."""
    folder = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "CACHE", folder / "cache")
        patch.setattr(record, "ROOT", folder)
        yield folder


def run(method: str, **changes) -> Run:
    return replace(Run("smoke", "gratings", method, PROFILE), **changes)


@pytest.fixture(scope="module")
def filled(root) -> list[Run]:
    """Five runs that were computed and recorded."""
    runs = [run(method) for method in ("linear", "lora", "supernet", "glora", "glora_random")]
    assert fill(runs) == []
    return runs


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("noah", "linear", "glora")])
def test_every_method_without_a_search_leaves_a_record(root, method):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # no slower on a model this small
    found = execute(run(method, profile=replace(PROFILE, epochs=1, methods={})))
    torch.set_num_threads(threads)
    assert found.config is None
    assert found.selected_on == "nothing"
    assert found.cost["trained"] == found.cost["stored"] > 0
    assert found.cost["merged"] == (found.cost["stored"] if method in NOT_FUSABLE else 0)
    assert {"seconds_train", "head"} <= set(found.cost)
    assert 0 <= found.metrics["test"] <= 1


def test_noah_is_searched_on_val_and_what_was_found_is_trained_again(root):
    found = execute(run("noah", profile=replace(PROFILE, epochs=1, methods={})))
    assert found.selected_on == "val"
    assert set(found.config) == {"prompt", "lora", "adapter"}
    assert found.cost["stored"] == found.cost["merged"] < found.cost["trained"]
    assert len(found.history["train"]) == len(found.history["retrain"]) == 1


def test_a_method_that_does_not_exist_names_those_that_do():
    with pytest.raises(ValueError, match="method 'lorra' cannot be run here; valid: .*lora, .*noah.*supernet"):
        execute(run("lorra"))


def load(method: str) -> Record:
    return Record.load(run(method).path)


def without_time(found: Record) -> dict:
    """Return what must be the same when a run is repeated."""
    return {"metrics": found.metrics, "config": found.config, "settings": found.settings, "selected_on": found.selected_on}


def test_every_run_leaves_one_whole_record(filled, root):
    table = results("smoke", "smoke")
    assert sorted(table.method) == ["glora", "glora_random", "linear", "lora", "supernet"]
    assert all(found.exists() for found in filled)
    assert set(table.n_test) == {64}
    assert set(table.n_val) == {32}
    measured = table[table.method != "supernet"]
    assert measured[["val", "test"]].stack().between(0, 1).all()
    assert not list(root.rglob("*.tmp"))


def test_only_searches_select_and_only_on_validation_data(filled):
    selected = {method: load(method).selected_on for method in ("linear", "lora", "supernet", "glora", "glora_random")}
    assert selected == {"linear": "nothing", "lora": "nothing", "supernet": "nothing", "glora": "val", "glora_random": "val"}


@pytest.mark.parametrize("method", ["glora", "glora_random"])
def test_a_search_s_record_holds_a_legal_configuration_and_its_size(filled, method):
    found = load(method)
    config = from_json(found.config)
    space = Space(config, PROFILE.ranks)
    shapes = {"attn.qkv": (192, 64), "attn.proj": (64, 64), "mlp.fc1": (192, 64), "mlp.fc2": (64, 192)}
    shapes = {name: shapes[".".join(name.split(".")[-2:])] for name in config}
    assert found.cost["stored"] == space.parameters(space.check(config), shapes)
    assert found.metrics["evaluations"] == 8  # evolution and random search have the same budget
    assert found.metrics["val"] == max(value for generation in found.history["search"] for value in generation["val"])
    assert found.cost["merged"] == 0


def test_parameters_are_counted_without_the_head(filled):
    lora = sum(4 * (d2 + d1) for d2, d1 in [(192, 64), (64, 64), (192, 64), (64, 192)]) * 6
    assert load("lora").cost["trained"] == load("lora").cost["stored"] == 2 * lora
    assert load("linear").cost["trained"] == 0
    assert {load(method).cost["head"] for method in ("linear", "lora", "glora")} == {64 * 4 + 4}


def test_records_say_where_they_come_from(filled):
    for method in ("linear", "lora", "glora"):
        found = load(method)
        assert {"commit", "dirty", "time", "packages", "processor", "threads", "dtype"} <= set(found.provenance)
        assert found.settings["weights_sha256"] == "random"
        assert found.settings["backbone_label"] == "test_vit, random weights"
        assert len(found.settings["task_sha256"]) == 64


def test_what_exists_is_kept(filled, monkeypatch):
    before = {found.path: found.path.read_bytes() for found in filled}
    monkeypatch.setattr(grid, "execute", lambda found: pytest.fail(f"{found} was computed again"))
    assert fill(filled) == []
    assert {found.path: found.path.read_bytes() for found in filled} == before


def test_nothing_is_computed_with_compute_none(filled, monkeypatch):
    monkeypatch.setattr(grid, "execute", lambda found: pytest.fail(f"{found} was computed"))
    absent = run("linear", seed=7)
    assert fill([*filled, absent], compute="none") == [absent]
    assert not absent.path.exists()


def test_missing_computes_exactly_what_is_missing(filled, monkeypatch):
    computed, absent = [], run("linear", seed=8)
    monkeypatch.setattr(grid, "execute", lambda found: computed.append(found) or execute(found))
    assert fill([*filled, absent]) == []
    assert computed == [absent]


@pytest.mark.parametrize("method", ["lora", "glora"])
def test_a_run_computed_again_gives_the_same_result(filled, method):
    before = without_time(load(method))
    assert fill([run(method)], compute="all") == []
    assert without_time(load(method)) == before


def test_computing_one_run_again_leaves_other_runs_unfinished_stages_alone(root):
    other = root / "cache" / "runs" / "mnist_5k--lora--s0--0123456789ab" / "train.pt"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"half a training")
    fill([run("linear", seed=9)], compute="all")
    assert other.read_bytes() == b"half a training"


@pytest.mark.parametrize("compute", ["some", "", "Missing"])
def test_an_unknown_value_of_compute_names_the_known(compute):
    with pytest.raises(ValueError, match="compute .* is not known; valid: none, missing, all"):
        fill([], compute=compute)


@pytest.mark.parametrize(
    "changes", [{"epochs": 2}, {"ranks": (4,)}, {"learning_rate": 2e-3}, {"backbone": "test_vit2"}, {"generations": 2}], ids=str
)
def test_a_record_of_other_settings_counts_as_missing(filled, changes):
    assert run("glora").exists()
    assert not run("glora", profile=replace(PROFILE, **changes)).exists()


def test_a_record_of_other_settings_is_refused_before_anything_is_computed_and_set_aside_if_all_is_asked_for(filled):
    other = replace(PROFILE, learning_rate=2e-3)
    fill([run("linear", seed=12)])
    before = run("linear", seed=12).path.read_bytes()
    with pytest.raises(RecordError, match=r"holds a record of other settings, .*'learning_rate': \(0.001, 0.002\)"):
        fill([run("linear", seed=12, profile=other)])
    assert run("linear", seed=12).path.read_bytes() == before
    assert fill([run("linear", seed=12, profile=other)], "all") == []
    aside = run("linear", seed=12).path.with_name(f"{run('linear', seed=12).path.name}.other-settings")
    assert aside.read_bytes() == before


def test_where_results_go_and_which_runs_there_are_is_no_setting_of_a_run(filled):
    assert run("glora", profile=replace(PROFILE, figures="elsewhere", seeds=(0, 1, 2))).exists()


def test_other_seeds_tasks_and_labels_are_other_records(filled):
    assert not any(run("lora", **change).exists() for change in ({"seed": 1}, {"task": "mnist_5k"}, {"label": "lora-8"}))
    assert run("lora", label="lora-8").path.name == "gratings--lora-8--smoke--s0.json"


@pytest.mark.parametrize("content", ["{}", '{"settings": 1'])
def test_a_record_that_cannot_be_read_counts_as_missing_and_is_computed_again(filled, content):
    found = run("linear", seed=10)
    found.path.write_text(content)
    assert not found.exists()
    assert fill([found]) == []
    assert json.loads(found.path.read_text())["seed"] == 10


def test_a_labelled_run_is_recorded_under_its_label(filled):
    found = run("linear", label="linear-slow")
    assert fill([found]) == []
    assert Record.load(found.path).method == "linear-slow"


def test_the_targets_of_a_shift_are_measured_with_the_same_model(root, monkeypatch):
    task = grid.load_task("gratings", PROFILE)
    shifted = {"val again": replace(task, test=task.val), "test again": task}
    monkeypatch.setattr(grid, "load_shift", lambda source, target, profile: shifted[target])
    plain, found = run("lora", seed=11), run("lora", seed=11, targets=("val again", "test again"))
    assert fill([plain]) == []
    assert not found.exists()  # the record lacks the targets
    assert fill([found]) == []
    metrics = Record.load(found.path).metrics
    assert (metrics["shift_val again"], metrics["shift_test again"]) == (metrics["val"], metrics["test"])
    assert (metrics["n_val again"], metrics["n_test again"]) == (32, 64)
    assert plain.exists()


@pytest.mark.parametrize("together", [False, True])
def test_a_run_whose_training_fails_ends_all_or_is_said_and_the_others_go_on(root, together):
    good, other, bad = (replace(run("bitfit"), label=f"{label}-{together}") for label in ("good", "other", "bad"))
    recipe = {"learning_rate": 1e30, "first_learning_rate": 1e30}
    bad = replace(bad, profile=replace(PROFILE, methods=PROFILE.methods | {"bitfit": recipe}))
    with pytest.raises(TrainingError, match=r"the loss .*is (nan|inf)"):
        fill([bad, good], together=together)
    said = []
    assert fill([bad, good, other], together=together, keep_going=True, say=said.append) == [bad]
    assert good.exists()
    assert other.exists()
    assert said[0].startswith(f"smoke/gratings--bad-{together}--smoke--s0 has no new record: the loss is ")


def test_a_deadline_reaches_other_processes_and_what_is_whole_is_kept(root):
    late = [replace(run("linear"), label=f"late-{number}") for number in range(3)]
    with deadline.until(0.0), pytest.raises(deadline.OutOfTime, match="--late-.--smoke--s0 and what follows it have not begun"):
        fill(late, workers=2)
    assert not any(one.exists() for one in late)
    with deadline.until(time.monotonic() + 600):
        assert fill(late, workers=2) == []
