"""Runs and their records: what is missing is computed, what exists with the same settings is kept."""

import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from joblib import Parallel, delayed, parallel_config

from glora_lib import backbones
from glora_lib.data import load_shift, load_task
from glora_lib.runs import record as records
from glora_lib.runs.adapted import here
from glora_lib.runs.provenance import peak_memory, provenance
from glora_lib.runs.record import Record, RecordError
from glora_lib.runs.run import Run
from glora_lib.runs.stages import STAGES
from glora_lib.runs.together import groups, parts, sorted_by_kind, train_together
from glora_lib.training import deadline
from glora_lib.training.accuracy import accuracy
from glora_lib.training.batch import TrainingError
from glora_lib.training.device import device, forget_peak, free
from glora_lib.training.device import peak_memory as gpu_memory
from glora_lib.training.threads import share

COMPUTE = ("none", "missing", "all")
ANSWER = 30  # seconds in which a cluster must answer

__all__ = ["COMPUTE", "Run", "execute", "fill"]


def fill(
    runs: Iterable[Run],
    compute: str = "missing",
    workers: int = 1,
    scheduler: str | None = None,
    together: bool = False,
    keep_going: bool = False,
    say: Callable[[str], None] = lambda line: None,
    do: Callable[[Run], Record] | None = None,
) -> list[Run]:
    """Compute the runs that have no record ("missing"), all of them ("all") or not one ("none"); return those still without.

    Each record is written here as soon as its run ends, and an interrupted run goes on from its last epoch or generation. Where
    several processes compute, they take the runs that share a training, or train as one program, as one part; the records of a
    cluster come when a part ends. Without a deadline, runs of one kind train together wherever they stand.

    Args:
        workers: processes that compute at once; they share the processor's threads out, and take one of several GPUs each.
        scheduler: the address of a Dask cluster, "tcp://host:8786", whose workers compute instead; they need one thread each,
            the same code and packages, not the same disk. A part whose worker dies is given to another one.
        together: train runs of one kind as one program also where there is no GPU, on which that is always done.
        keep_going: a run that fails (TrainingError: a loss is not finite, memory does not do) gets no new record, which
            `say` is told, and the others go on; without it the first one ends all.
        say: is told a line for every record that is saved.
        do: what makes a record of a run; `execute` without it, `language.execute` for language models.

    Raises DeviceError for a device that is asked for and missing, ValueError for a cluster whose workers have several threads
    (runs would draw from one another's generators), and OutOfTime when the deadline has passed
    (`training.deadline.until`): records that are whole stay, and what has begun goes on from there another time.
    """
    do = do or execute
    if compute not in COMPUTE:
        raise ValueError(f"compute {compute!r} is not known; valid: {', '.join(COMPUTE)}")
    runs, scheduler = list(runs), scheduler or None
    if scheduler is None:
        device()  # one that is asked for and missing is an error before anything is deleted or computed
    wanted = [run for run in runs if compute == "all" or (compute == "missing" and not run.exists())]
    for run in wanted:
        if run.changed and compute == "all":  # kept, under a name that is no record's
            run.path.replace(run.path.with_name(f"{run.path.name}.other-settings"))
        elif run.changed:
            raise RecordError(
                f"{run.path} holds a record of other settings, (there, here): {run.changed}; move it away, give this run a "
                'label, or say compute="all", which sets it aside'
            )
    if compute == "all":
        for run in wanted:
            for stage in (run, run.supernet):
                shutil.rmtree(stage.state_folder, ignore_errors=True)
    if workers == 1 and scheduler is None:
        if _as_programs(do, together) and deadline.left() is None:
            wanted = sorted_by_kind(wanted)
        for outcome in _computed(wanted, do, together, keep_going):
            say(_kept(outcome))
    elif wanted:
        threads, root = (share(workers), records.ROOT) if scheduler is None else (None, None)
        seconds = deadline.left()
        end, late = None if seconds is None else time.time() + seconds, None
        with _backend(workers, scheduler) as (number, gpus):
            programs = do is execute and (gpus or together)
            wanted = sorted_by_kind(wanted) if programs and seconds is None else wanted
            outcomes = Parallel(n_jobs=-1 if scheduler else workers, return_as="generator_unordered", batch_size=1)(
                delayed(_elsewhere)(part, threads, root, end, do, together, keep_going)
                for part in parts(wanted, number, together=programs)
            )
            for found, error in outcomes:
                for outcome in found:
                    say(_kept(outcome))
                if error is not None and not isinstance(error, deadline.OutOfTime):
                    raise error
                late = late or error
        if late:
            raise late
    return [run for run in runs if not run.exists()]


def execute(run: Run) -> Record:
    """Train, search, fuse and measure one run; return its record, not yet saved."""
    if run.method not in STAGES:
        raise ValueError(f"method {run.method!r} cannot be run here; valid: {', '.join(STAGES)}")
    forget_peak(device())
    recipe, task = here(run.recipe), load_task(run.task, run.profile)
    model = backbones.load_backbone(
        recipe.backbone, classes=task.classes, image_size=recipe.image_size, weights=recipe.weights,
        drop_path=recipe.drop_path, seed=run.seed,
    )  # fmt: skip
    torch.manual_seed(run.seed)  # for what adapting draws: a run does not depend on those before it in this process
    outcome, plain = STAGES[run.method](run, recipe, model, task)
    settings = run.recipe.settings() | {
        "weights_sha256": backbones.weights_sha256(recipe.backbone, recipe.weights),
        "backbone_label": backbones.label(recipe.backbone, recipe.weights),
        "task_sha256": task.sha256,
        "stands_for": task.stands_for,
        "group": task.group,
    }
    metrics = {"n_train": len(task.train), "n_val": len(task.val), "n_test": len(task.test)} | outcome.pop("metrics")
    for target in run.targets:
        shifted = load_shift(run.task, target, run.profile).test
        metrics |= {f"shift_{target}": accuracy(plain, shifted, dtype=recipe.dtype), f"n_{target}": len(shifted)}
    measured_on = next(plain.parameters()).device
    cost = outcome.pop("cost") | {"peak_memory_mb": peak_memory()}
    if measured_on.type == "cuda":
        together = [epoch.get("gpu_memory_mb", 0.0) for epoch in (outcome.get("history") or {}).get("train", [])]
        cost["gpu_memory_mb"] = max([gpu_memory(measured_on), *together])  # of the program, if it was trained in one
    return Record(
        run.experiment, run.task, run.label or run.method, run.profile.name, run.seed, settings, metrics,
        cost=cost, provenance=provenance(recipe.dtype, measured_on), **outcome,
    )  # fmt: skip


@contextmanager
def _backend(workers: int, scheduler: str | None) -> Iterator[tuple[int, bool]]:
    """Processes of this machine, or the workers of a Dask cluster; gives how many there are, and whether they have GPUs."""
    if scheduler is None:
        yield workers, device().type == "cuda"
        return
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ImportError(f"a scheduler ({scheduler}) needs dask.distributed: pip install 'glora_lib[dask]'") from error
    with Client(scheduler, timeout=ANSWER) as client, parallel_config(backend="dask"):
        if many := {address: number for address, number in client.nthreads().items() if number > 1}:
            raise ValueError(
                f"workers of the cluster have several threads, which would share one random generator: {many}; start them with "
                "one each: dask worker ADDRESS --nworkers N --nthreads 1"
            )
        kinds = client.run(_kind_of_device)
        yield len(kinds), set(kinds.values()) == {"cuda"}


def _kind_of_device() -> str:
    return device().type


def _computed(runs: Iterable[Run], do: Callable[[Run], Record], together: bool, keep_going: bool) -> Iterator[Record | str]:
    """Yield what `_execute` returns for each run; what can train together does, on a GPU or where it is asked for.

    Raises OutOfTime when the deadline has passed.
    """
    for group in groups(runs):
        deadline.check(f"{group[0].id} and what follows it have not begun")
        if _as_programs(do, together):
            try:
                train_together(group)
            except TrainingError:  # of one of them; without it the others train
                if not keep_going:
                    raise
                for run in group:
                    with suppress(TrainingError):  # which its own stage will say
                        train_together([run])
        for run in group:
            deadline.check(f"{run.id} and what follows it have not begun")
            yield _execute(run, do, keep_going)
            free()


def _as_programs(do: Callable[[Run], Record], together: bool) -> bool:
    return do is execute and (together or device().type == "cuda")


def _elsewhere(
    runs: list[Run],
    threads: int | None,
    root: Path | None,
    end: float | None,
    do: Callable[[Run], Record],
    together: bool,
    keep_going: bool,
) -> tuple[list[Record | str], Exception | None]:
    """Return what `_computed` yields in another process, and what ended it early; `end` is a time of `time.time`.

    With a `root`, which is on a disk that both have, records are written there as they come, and lines are returned.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    outcomes: list[Record | str] = []
    with deadline.until(None if end is None else time.monotonic() + end - time.time()):
        try:
            for outcome in _computed(runs, do, together, keep_going):
                outcomes.append(outcome if root is None else _kept(outcome, root))
        except deadline.OutOfTime as error:
            return outcomes, error
        except Exception as error:  # returned, so that the records before it are kept; its traceback stays here
            error.add_note("".join(traceback.format_exception(error)))
            return outcomes, error
    return outcomes, None


def _execute(run: Run, do: Callable[[Run], Record], keep_going: bool) -> Record | str:
    """Return the run's record or, with `keep_going`, why it failed."""
    try:
        return do(run)
    except torch.OutOfMemoryError as error:
        failure = TrainingError(
            f"memory does not do for {run.id} on {device()}; make room there, or take smaller images, another backbone or "
            f"DEVICE=cpu ({' '.join(str(error).split())[:120]})"
        )
    except TrainingError as error:
        failure = error
    if not keep_going:
        raise failure
    return f"{run.experiment}/{run.id} has no new record: {failure}"


def _kept(outcome: Record | str, root: Path | None = None) -> str:
    """Write a record down; return the line that says so."""
    if not isinstance(outcome, Record):
        return outcome
    outcome.save(root)
    return f"{outcome.experiment}/{outcome.id}: test {outcome.metrics.get('test', math.nan):.4f}"
