"""Records: what is written comes back, what is malformed or of unknown origin is refused, profiles stay apart."""

import json
import math
from dataclasses import replace

import pytest

from glora_lib.runs import record
from glora_lib.runs.record import Record, RecordError, all_results, folder, results


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Records go to a temporary folder."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return tmp_path


def make(**changes) -> Record:
    complete = Record(
        experiment="vtab1k",
        task="mnist_5k",
        method="glora",
        profile="cpu",
        seed=1,
        settings={"epochs": 3, "limit": None},
        metrics={"val": 0.5, "test": 0.25, "n_test": 4},
        config={"layer": {"A": "vector"}},
        selected_on="val",
        cost={"seconds_train": 1.5},
        provenance={"commit": "0123456789abcdef", "dirty": False},
        history={"train": [{"epoch": 0, "loss": 1.25}]},
    )
    return replace(complete, **changes)


def test_a_record_comes_back_as_it_was(root):
    path = make().save()
    assert path == root / "data/results/vtab1k/mnist_5k--glora--cpu--s1.json"
    assert Record.load(path) == make()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_saving_again_replaces_the_record():
    make().save()
    path = make(metrics={"test": 0.75}).save()
    assert Record.load(path).metrics == {"test": 0.75}


@pytest.mark.parametrize(
    "broken", [{"metrics": {"test": float("nan")}}, {"settings": {"path": object()}}], ids=["NaN", "object"]
)
def test_what_json_cannot_hold_is_refused_and_the_old_record_stays_whole(broken):
    path = make().save()
    with pytest.raises((ValueError, TypeError)):
        make(**broken).save()
    assert Record.load(path) == make()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_interrupted_write_leaves_no_half_record(monkeypatch):
    def stop(source, target):
        raise KeyboardInterrupt

    path = make().save()
    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        make(metrics={}).save()
    assert Record.load(path) == make()
    assert len(results("vtab1k", "cpu")) == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing is left over


def test_a_record_of_other_settings_is_never_replaced():
    path = make().save()
    with pytest.raises(RecordError, match=r"holds a record of other settings, \(there, here\): {'epochs': \(3, 4\)}"):
        make(settings={"epochs": 4, "limit": None}, metrics={}).save()
    assert Record.load(path) == make()
    make(settings={"epochs": 3, "limit": None, "of later": 1}, metrics={}).save()  # a setting that the old one lacks
    assert Record.load(path).metrics == {}


def test_junk_beside_records_is_passed_over_and_a_file_that_is_no_text_is_a_record_error(root):
    path = make().save()
    (path.parent / f"._{path.name}").write_bytes(b"\xff\x00")
    (path.parent.parent / "._other").mkdir()
    (path.parent.parent / ".DS_Store").write_bytes(b"\xff")
    assert len(results("vtab1k", "cpu")) == len(all_results("cpu")) == 1
    path.write_bytes("\ufeff".encode() + path.read_bytes())
    assert Record.load(path) == make()
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(RecordError, match="cannot be read as a record"):
        Record.load(path)


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text(path.read_text()[:-20]), "cannot be read as a record"),
        (lambda path: path.write_text(""), "cannot be read as a record"),
        (lambda path: path.write_text("[1, 2]"), "malformed: not an object"),
        (lambda path: edit(path, lambda data: data.pop("metrics")), r"malformed: \['metrics'\] missing or unknown"),
        (lambda path: edit(path, lambda data: data.update(extra=1)), r"malformed: \['extra'\] missing or unknown"),
        *[
            (
                lambda path, key=key, value=value: edit(path, lambda data: data.update({key: value})),
                rf"malformed: \['{key}'\] have",
            )
            for key, value in (
                ("settings", None),
                ("metrics", []),
                ("seed", "1"),
                ("seed", True),
                ("task", 3),
                ("cost", None),
                ("history", []),
            )
        ],
        (lambda path: edit(path, lambda data: data["metrics"].update(test="0.5")), r"the metrics \['test'\] are no finite"),
        (lambda path: edit(path, lambda data: data["metrics"].update(val=[0.5, None])), r"the metrics \['val'\] are no finite"),
        (lambda path: edit(path, lambda data: data["metrics"].update(n=math.nan)), r"the metrics \['n'\] are no finite"),
        (lambda path: edit(path, lambda data: data["provenance"].pop("dirty")), "metrics or provenance is incomplete"),
        (lambda path: edit(path, lambda data: data.update(seed=2)), "holds the record vtab1k/mnist_5k--glora--cpu--s2"),
        (
            lambda path: edit(path, lambda data: data.update(profile="paper")),
            "holds the record vtab1k/mnist_5k--glora--paper--s1",
        ),
        (lambda path: edit(path, lambda data: data.update(experiment="other")), "holds the record other/mnist_5k"),
    ],
    ids=[
        "cut",
        "empty",
        "list",
        "missing",
        "unknown",
        *(f"type {i}" for i in range(7)),
        *(f"metric {i}" for i in range(3)),
        "origin",
        "seed",
        "profile",
        "experiment",
    ],
)
def test_a_malformed_record_is_refused_with_its_path(spoil, message):
    path = make().save()
    spoil(path)
    with pytest.raises(RecordError, match=f"{path}.*{message}"):
        Record.load(path)
    with pytest.raises(RecordError, match=message):
        results("vtab1k", "cpu")


def test_a_record_that_is_not_there_is_refused(root):
    with pytest.raises(RecordError, match="cannot be read as a record"):
        Record.load(root / "nothing.json")


def test_the_table_has_a_row_a_record_with_metrics_and_costs():
    make().save()
    make(seed=0, metrics={"test": 0.5}).save()
    make(method="linear", seed=0, selected_on="nothing").save()
    make(experiment="other").save()
    table = results("vtab1k", "cpu")
    assert list(zip(table.task, table.method, table.seed, strict=True)) == [
        ("mnist_5k", "glora", 0),
        ("mnist_5k", "glora", 1),
        ("mnist_5k", "linear", 0),
    ]
    assert list(table.test) == [0.5, 0.25, 0.25]
    assert list(table.seconds_train) == [1.5] * 3
    assert list(table.selected_on) == ["val", "val", "nothing"]
    assert set(table.commit) == {"0123456789"}
    assert table.record[1] == make()


@pytest.mark.parametrize("profile", ["smoke", "cpu", "paper"])
def test_profiles_are_never_mixed(profile):
    for name in ("smoke", "cpu", "paper"):
        make(profile=name, metrics={"test": len(name) / 10}).save()
    table = results("vtab1k", profile)
    assert [found.profile for found in table.record] == [profile]
    assert list(table.test) == [len(profile) / 10]


def test_without_records_the_table_is_empty_but_has_columns():
    table = results("vtab1k", "cpu")
    assert len(table) == 0
    assert {"task", "method", "seed"} <= set(table.columns)


def test_a_record_of_uncommitted_code_is_refused_unless_allowed():
    make(provenance={"commit": "0123456789abcdef", "dirty": True}).save()
    with pytest.raises(RecordError, match="in no commit; commit and run it again, or pass allow_dirty=True"):
        results("vtab1k", "cpu")
    assert len(results("vtab1k", "cpu", allow_dirty=True)) == 1


def test_the_smoke_profile_allows_uncommitted_code_unless_told_not_to():
    make(profile="smoke", provenance={"commit": "unknown", "dirty": True}).save()
    assert len(results("vtab1k", "smoke")) == 1
    with pytest.raises(RecordError, match="in no commit"):
        results("vtab1k", "smoke", allow_dirty=False)


def test_a_run_that_did_not_end_is_refused():
    make(status="running").save()
    with pytest.raises(RecordError, match="has status 'running'; run it again"):
        results("vtab1k", "cpu")


def test_an_unknown_profile_names_the_known():
    for call in (lambda: folder("vtab1k", "tpu"), lambda: results("vtab1k", "tpu"), make(profile="tpu").save):
        with pytest.raises(ValueError, match="unknown profile 'tpu'; valid: smoke, cpu, gpu, paper"):
            call()


def test_all_results_are_those_of_every_experiment_of_one_profile():
    assert all_results("cpu").empty
    for changes in ({}, {"seed": 2}, {"experiment": "controls"}, {"profile": "paper"}):
        make(**changes).save()
    table = all_results("cpu")
    assert table["experiment"].value_counts().to_dict() == {"vtab1k": 2, "controls": 1}
    make(provenance={"commit": "0123456789abcdef", "dirty": True}).save()
    with pytest.raises(RecordError, match="in no commit"):
        all_results("cpu")
    assert len(all_results("cpu", allow_dirty=True)) == 3
