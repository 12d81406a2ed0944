"""Runs of the grid that train together leave the records that they leave one by one."""

import weakref
from dataclasses import replace

import pytest
import torch
from joblib import parallel_config

from glora_lib.data.task import Images, Task
from glora_lib.runs import grid, record
from glora_lib.runs import run as run_module
from glora_lib.runs import together as together_module
from glora_lib.runs.adapted import training_state
from glora_lib.runs.grid import Run, fill
from glora_lib.runs.profiles import SMOKE
from glora_lib.runs.record import Record
from glora_lib.runs.together import groups, parts, sorted_by_kind, train_together
from glora_lib.training import checkpoint as checkpoints
from glora_lib.training import deadline
from glora_lib.training.batch import TrainingError
from glora_lib.training.many import Program

PROFILE = replace(SMOKE, epochs=2, population=6, parents=2, mutations=3, crossovers=3, generations=1)
METHODS = ("glora", "lora", "repadapter", "fact_tk", "bitfit", "glora_fixed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a function that sends records and unfinished state to a folder of its own."""

    def use(name: str) -> None:
        monkeypatch.setattr(record, "ROOT", tmp_path / name)
        monkeypatch.setattr(run_module, "CACHE", tmp_path / name / "cache")

    use("one")
    return use


def runs(method: str) -> list[Run]:
    """Runs at three rates; with another seed the random backbone would be another one."""
    profiles = {rate: replace(PROFILE, learning_rate=rate) for rate in (1e-3, 1.5e-3, 4e-3)}
    return [Run("joint", "gratings", method, profile, label=f"{method}-{rate}") for rate, profile in profiles.items()]


@pytest.mark.parametrize("method", METHODS)
def test_records_are_those_of_the_runs_one_by_one(folder, monkeypatch, method):
    assert fill(runs(method)) == []
    alone = [Record.load(run.path) for run in runs(method)]
    folder("two")
    asked, train = [], together_module.train_many
    monkeypatch.setattr(
        together_module, "train_many", lambda nets, *rest, **named: asked.append(len(nets)) or train(nets, *rest, **named)
    )
    assert fill(runs(method), together=True) == []
    joint = [Record.load(run.path) for run in runs(method)]
    assert asked == [3]
    for one, other in zip(alone, joint, strict=True):
        assert one.settings == other.settings
        losses = [[epoch["loss"] for epoch in record.history["train"]] for record in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for name in ("val", "test"):
            assert one.metrics[name] == pytest.approx(other.metrics[name], abs=0.03)  # rounding turns single images


def test_what_trained_together_is_not_trained_again(folder, monkeypatch):
    train_together(runs("lora"))
    assert all(training_state(run).exists() for run in runs("lora"))
    for where in ("loop.set_rates", "many.schedule"):
        monkeypatch.setattr(f"glora_lib.training.{where}", lambda *_: pytest.fail("trained again"))
    assert fill(runs("lora")) == []
    train_together(runs("lora"))  # nothing is left to do


def test_a_kill_while_the_finished_trainings_are_left_loses_none_of_them(folder, monkeypatch):
    saved, save = [], checkpoints.save

    def killed(path, **state):
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(path, **state)

    monkeypatch.setattr(checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_together(runs("lora"))
    monkeypatch.setattr("glora_lib.training.many.schedule", lambda *_: pytest.fail("trained again"))
    train_together(runs("lora"))
    assert all(training_state(run).exists() for run in runs("lora"))
    assert not list(run_module.CACHE.rglob("together--*"))


def test_what_trains_by_steps_is_trained_alone(folder):
    stepped = [replace(run, profile=replace(run.profile, one_cycle={"steps": 2})) for run in runs("lora")]
    train_together(stepped)
    assert not any(training_state(run).exists() for run in stepped)


def test_searches_of_one_supernet_share_its_training(folder, monkeypatch):
    made = []
    make = together_module._make
    monkeypatch.setattr(together_module, "_make", lambda run: made.append(run.method) or make(run))
    searches = [run for method in ("glora", "glora_random") for run in runs(method)[:2]]
    assert fill(searches, together=True) == []
    assert made == ["glora_random"] * 2  # one of the two that share it, for each seed
    configs = [Record.load(run.path).config for run in searches]
    assert configs[0] != configs[2]


def test_runs_that_follow_each_other_and_are_alike_make_a_group():
    other = replace(PROFILE, epochs=3)
    rates = replace(PROFILE, learning_rate=5e-3)
    made = [
        *runs("lora"),
        Run("joint", "gratings", "lora", other),
        *(Run("joint", "gratings", name, PROFILE) for name in ("glora", "glora_random")),
        Run("joint", "gratings", "glora", rates),
        Run("joint", "gratings", "ssf", PROFILE),
    ]
    assert [len(group) for group in groups(made)] == [3, 1, 3, 1]


def test_a_run_that_cannot_be_one_of_a_program_is_trained_alone(folder):
    prompted = [replace(run, profile=replace(run.profile, options={"tokens": 2})) for run in runs("vpt_deep")]
    train_together(prompted)
    assert not any(training_state(run).exists() for run in prompted)
    assert fill(prompted, together=True) == []


def test_supernets_of_layers_without_masks_are_trained_alone(folder):
    options = {"layers": ["conv", "norm"]}
    small = replace(PROFILE, backbone="test_efficientnet", options=options, ranks=(2,), epochs=1, warmup_epochs=0)
    profiles = {rate: replace(small, learning_rate=rate) for rate in (1e-3, 1.5e-3)}
    convolutional = [Run("joint", "gratings", "glora", profile, label=f"conv-{rate}") for rate, profile in profiles.items()]
    train_together(convolutional)
    assert not any(training_state(run).exists() for run in convolutional)
    assert fill(convolutional, together=True) == []


def test_memory_that_does_not_do_halves_the_program(folder, monkeypatch):
    """What did not fit is gone before its halves are tried."""
    sizes, programs, train = [], [], together_module.train_many

    def cramped(models, *rest, **named):
        program = Program(models, *rest, named["seeds"], named["choices"])
        assert all(before() is None for before in programs)
        programs.append(weakref.ref(program))
        sizes.append(len(models))
        if len(models) > 2:
            raise torch.OutOfMemoryError("too much")
        return train(models, *rest, **named)

    monkeypatch.setattr(together_module, "train_many", cramped)
    assert fill(runs("lora"), together=True) == []
    assert sizes == [3, 2]  # one is left, and is trained alone


def test_memory_that_does_not_do_for_all_backbones_halves_the_program_too(folder, monkeypatch):
    made, make = [], together_module._make

    def cramped(run: Run):
        made.append(run.label)
        if len(made) == 3:
            raise torch.OutOfMemoryError("too much")
        return make(run)

    monkeypatch.setattr(together_module, "_make", cramped)
    train_together(runs("lora"))
    assert made == [run.label for run in [*runs("lora"), *runs("lora")[1:]]]
    assert [training_state(run).exists() for run in runs("lora")] == [False, True, True]


def test_a_run_that_memory_does_not_do_for_is_said_and_the_others_go_on(folder, monkeypatch):
    execute = grid.execute

    def cramped(run: Run) -> Record:
        if run.label == "lora-0.0015":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return execute(run)

    monkeypatch.setattr(grid, "execute", cramped)
    said: list[str] = []
    assert fill(runs("lora"), keep_going=True, say=said.append) == [runs("lora")[1]]
    assert said[1].startswith(
        "joint/gratings--lora-0.0015--smoke--s0 has no new record: memory does not do for gratings--lora-0.0015"
    )
    with pytest.raises(TrainingError, match="make room there, or take smaller images.*CUDA out of memory. Tried to allocate"):
        fill(runs("lora"))


def test_runs_with_other_numbers_of_images_make_programs_of_their_own(folder, monkeypatch):
    sizes, train, load = [], together_module.train_many, together_module.load_task

    def cut(task: str, profile) -> Task:
        found = load(task, profile)
        few = profile.learning_rate == 1.5e-3
        return replace(found, train=Images(found.train.raw[:40], found.train.labels[:40])) if few else found

    monkeypatch.setattr(together_module, "load_task", cut)
    monkeypatch.setattr(
        together_module, "train_many", lambda nets, *rest, **named: sizes.append(len(nets)) or train(nets, *rest, **named)
    )
    train_together(runs("lora"))
    assert sizes == [2]
    assert [training_state(run).exists() for run in runs("lora")] == [True, False, True]


def test_runs_of_a_kind_train_together_wherever_they_stand_in_a_table(folder, monkeypatch):
    sizes, train = [], together_module.train_many
    monkeypatch.setattr(
        together_module, "train_many", lambda nets, *rest, **named: sizes.append(len(nets)) or train(nets, *rest, **named)
    )
    by_task = [run for pair in zip(runs("lora")[:2], runs("bitfit")[:2], strict=True) for run in pair]
    assert sorted_by_kind(by_task) == [*runs("lora")[:2], *runs("bitfit")[:2]]
    assert fill(by_task, together=True) == []
    assert sizes == [2, 2]


def test_all_anew_deletes_the_program_of_these_runs(folder, monkeypatch):
    epochs, train_epoch = [], Program.train_epoch
    monkeypatch.setattr(Program, "train_epoch", lambda program: train_epoch(program) or epochs.append(program.epoch))
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "passed", lambda: bool(epochs))
        with pytest.raises(deadline.OutOfTime):
            fill(runs("lora"), together=True)
    assert fill(runs("lora"), "all", together=True) == []
    assert epochs == [1, 1, 2]


@pytest.mark.parametrize("fits", [True, False])
def test_on_a_gpu_one_supernet_is_a_program_and_where_memory_does_not_do_it_is_trained_alone(folder, monkeypatch, fits):
    sizes, train = [], together_module._train

    def counted(waiting):
        sizes.append(len(waiting))
        return train(waiting) if fits else False

    monkeypatch.setattr(together_module, "_train", counted)
    monkeypatch.setattr(together_module, "_least", lambda run: 1 if run.method == "glora" else 2)
    (supernet, _, _), (lora, _, _) = runs("glora"), runs("lora")
    train_together([supernet])
    train_together([lora])
    assert sizes == [1]
    assert training_state(supernet).exists() == fits
    assert fill([supernet]) == []


def test_a_deadline_keeps_what_is_done_and_the_rest_goes_on(folder, monkeypatch):
    epochs, train_epoch = [], Program.train_epoch
    monkeypatch.setattr(Program, "train_epoch", lambda program: train_epoch(program) or epochs.append(program.epoch))
    with monkeypatch.context() as patch:
        patch.setattr(deadline, "passed", lambda: bool(epochs))
        with pytest.raises(deadline.OutOfTime, match="1 of 2 epochs of 3 runs are kept"):
            fill(runs("lora"), together=True)
    assert not any(run.exists() for run in runs("lora"))
    assert fill(runs("lora"), together=True) == []
    assert epochs == [1, 2]
    with deadline.until(0.0), pytest.raises(deadline.OutOfTime, match="bitfit-0.001--smoke--s0 and what follows it"):
        fill([*runs("lora"), *runs("bitfit")])
    with deadline.until(0.0), pytest.raises(deadline.OutOfTime, match="bitfit-0.001--smoke--s0 and what follows it"):
        fill(runs("bitfit"), together=True)
    assert epochs == [1, 2]  # after the deadline nothing begins


@pytest.fixture
def elsewhere():
    """Other processes compute in this one, where the test can see what they do."""
    with parallel_config(backend="sequential"):
        yield


def test_processes_share_the_programs_out_and_searches_stay_with_their_supernet():
    searches = [run for method in ("glora", "glora_random") for run in runs(method)]
    every = [*searches, *runs("lora"), *runs("ssf")[:1]]
    names = lambda found: [[run.label.partition("-")[0] for run in part] for part in found]  # noqa: E731
    assert names(parts(every, 2, together=True)) == [["glora"] * 3 + ["glora_random"] * 3, ["lora"] * 3, ["ssf"]]
    five = [["glora"] * 2 + ["glora_random"] * 2, ["glora", "glora_random"], ["lora"] * 2, ["lora"], ["ssf"]]
    assert names(parts(every, 5, together=True)) == five
    assert names(parts(every, 2, together=False)) == [*[["glora", "glora_random"]] * 3, *[["lora"]] * 3, ["ssf"]]
    assert names(parts(every, 0, together=True)) == names(parts(every, 1, together=True))  # a cluster that nobody joined yet
    assert parts([], 4, together=True) == []


def test_several_processes_train_in_programs_too(folder, monkeypatch, elsewhere):
    sizes, train = [], together_module.train_many
    monkeypatch.setattr(
        together_module, "train_many", lambda nets, *rest, **named: sizes.append(len(nets)) or train(nets, *rest, **named)
    )
    assert fill([*runs("lora")[:2], *runs("bitfit")[:2]], workers=2, together=True) == []
    assert sizes == [2, 2]
    sizes.clear()
    folder("two")
    assert fill(runs("bitfit")[:2], workers=2) == []
    assert sizes == []  # on a processor only where it is asked for


def test_what_one_process_has_computed_is_kept_where_its_next_run_fails(folder, monkeypatch, elsewhere):
    execute = grid.execute

    def failing(run: Run) -> Record:
        if run.label == "lora-0.0015":
            raise RuntimeError("the disk is full")
        return execute(run)

    monkeypatch.setattr(grid, "execute", failing)
    monkeypatch.setattr(grid, "parts", lambda runs, workers, together: [list(runs)])
    with pytest.raises(RuntimeError, match="the disk is full") as raised:
        fill(runs("lora"), workers=2)
    assert "in failing" in raised.value.__notes__[0]
    assert [run.exists() for run in runs("lora")] == [True, False, False]


def test_records_are_written_as_they_come_or_come_back_from_another_disk(folder, tmp_path):
    ended = ["joint/gratings--bitfit-0.001--smoke--s0: test 0."]
    found, error = grid._elsewhere(runs("bitfit")[:1], None, tmp_path / "there", None, grid.execute, False, False)
    assert [line[: len(ended[0])] for line in found] == ended
    assert (tmp_path / "there" / SMOKE.results / "joint" / f"{runs('bitfit')[0].id}.json").exists()
    found, error = grid._elsewhere(runs("bitfit")[:1], None, None, None, grid.execute, False, False)
    assert [record.id for record in found] == [runs("bitfit")[0].id]
    assert error is None
    assert not runs("bitfit")[0].exists()


def test_time_that_is_up_in_one_process_keeps_what_it_has_computed(folder, monkeypatch, elsewhere):
    execute = grid.execute

    def last(run: Run) -> Record:
        found = execute(run)
        monkeypatch.setattr(deadline, "passed", lambda: True)
        return found

    monkeypatch.setattr(grid, "execute", last)
    monkeypatch.setattr(grid, "parts", lambda runs, workers, together: [list(runs)])
    with pytest.raises(deadline.OutOfTime, match="lora-0.0015--smoke--s0 and what follows it have not begun"):
        fill(runs("lora"), workers=2)
    assert [run.exists() for run in runs("lora")] == [True, False, False]
