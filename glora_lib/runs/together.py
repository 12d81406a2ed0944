"""Runs of the grid that train as one program: each finds its training finished, as if it had been alone.

What a run's stage would train is trained here beside others, and left where the stage looks for it; search and measuring are
then each run's own.
"""

import hashlib
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from glora_lib.backbones import load_backbone
from glora_lib.data import load_task
from glora_lib.glora.masked import Masks
from glora_lib.glora.space import Space
from glora_lib.runs.adapted import SUPERNETS, adapted, here, training_state
from glora_lib.runs.profile import Profile
from glora_lib.runs.run import Run
from glora_lib.training import checkpoint as checkpoints
from glora_lib.training.device import device, forget_peak, free, peak_memory
from glora_lib.training.loop import whole
from glora_lib.training.many import train_many
from glora_lib.training.stacked import Unsuited

ALONE = ("linear", "noah", "supernet")  # a head on features that are computed once; two trainings; one that is watched
MOST = 16  # runs at once


def groups(runs: Iterable[Run], most: int = MOST) -> Iterator[list[Run]]:
    """Yield the runs in their order, those that follow each other and may train together as one list, `most` at once."""
    group: list[Run] = []
    for run in runs:
        if group and (kind(run) != kind(group[0]) or len(group) == most):
            yield group
            group = []
        group.append(run)
    if group:
        yield group


def sorted_by_kind(runs: Iterable[Run]) -> list[Run]:
    """Return the runs with those of a kind after each other, kinds and runs in their order: a table's rows run by task."""
    kinds: dict[tuple, list[Run]] = {}
    for run in runs:
        kinds.setdefault(kind(run), []).append(run)
    return [run for members in kinds.values() for run in members]


def parts(runs: Sequence[Run], workers: int, together: bool) -> list[list[Run]]:
    """Return the runs as lists for so many processes, in order: searches of one supernet in one list, since they share it.

    `together` says that what may train together does; its lists are so short that every process has one.
    """
    most = min(MOST, math.ceil(len(runs) / max(1, workers))) if together else 1
    holders: dict[Path, list[Run]] = {}
    found: list[list[Run]] = []
    for group in groups(runs, most):
        fresh: list[Run] = []
        for run in group:
            holders.setdefault(training_state(run), fresh).append(run)
        if fresh:
            found.append(fresh)
    return found


def kind(run: Run) -> tuple:
    """Return what runs that train together have in common: all settings but the rates, and what is adapted how."""
    settings = run.recipe.settings()
    rates = ("learning_rate", "head_learning_rate", "first_learning_rate", "final_learning_rate", "warmup_epochs")
    searched = run.recipe.evolution if run.method in SUPERNETS else ()
    own = {name: value for name, value in settings.items() if name not in rates and name not in searched}
    return ("supernet" if run.method in SUPERNETS else run.method, str(sorted(own.items())))


def train_together(runs: list[Run]) -> None:
    """Train the runs of one kind as one program; each one's finished training is left where its stage looks for it.

    Runs whose training is finished already are left out, and so are runs that cannot be one program, or for which memory does
    not do: their own stages train them. Raises OutOfTime when the deadline has passed; what was trained is kept.
    """
    alone = [run.method in ALONE or bool(run.recipe.one_cycle) for run in runs]
    shared = {training_state(run): run for run, by_itself in zip(runs, alone, strict=True) if not by_itself}
    waiting = list(shared.values())  # searches share a training
    if waiting and not _checkpoint(waiting).exists():  # a program that has ended is gone only when all its runs have been left
        waiting = [run for state, run in shared.items() if not state.exists()]
    if len(waiting) < _least(runs[0]):
        return
    numbers = [len(load_task(run.task, run.profile).train) for run in waiting]
    if len(set(numbers)) > 1:  # of images, and so of steps
        for number in dict.fromkeys(numbers):
            train_together([run for run, its in zip(waiting, numbers, strict=True) if its == number])
        return
    done = _train(waiting)
    free()
    if not done and len(waiting) > 1:
        half = len(waiting) // 2
        for part in (waiting[:half], waiting[half:]):
            train_together(part)


def _least(run: Run) -> int:
    """Return how many runs are a program's worth: on a GPU one supernet, whose step is a graph with masks and none without."""
    return 1 if run.method in SUPERNETS and device().type == "cuda" else 2


def _train(runs: list[Run]) -> bool:
    """Train the runs as one program, if they can be one; return whether memory does for it."""
    forget_peak(device())
    checkpoint = _checkpoint(runs)
    try:
        models, data, recipes = zip(*map(_make, runs), strict=True)
        choices = None
        if runs[0].method in SUPERNETS:
            space = Space(models[0].layer_names, recipes[0].ranks)
            choices = Masks(space, recipes[0].rank, next(models[0].parameters()).device)
        histories = train_many(
            models, data, recipes, seeds=[run.seed for run in runs], choices=choices, checkpoint=checkpoint
        )  # fmt: skip
    except Unsuited:
        return True
    except torch.OutOfMemoryError:
        return False
    peak = peak_memory(device())
    for run, model, split, recipe, history in zip(runs, models, data, recipes, histories, strict=True):
        history[-1] |= {} if peak is None else {"gpu_memory_mb": peak}
        order = torch.Generator().manual_seed(run.seed)
        finished = {"optimizer": None, "order": order, "draw": random.Random(run.seed), "history": history, "device": None}
        sample = Space(model.layer_names, recipe.ranks, model.kinds).sample if run.method in SUPERNETS else None
        checkpoints.save(training_state(run), **whole(model, split, recipe, run.seed, sample), **finished)
    checkpoint.unlink(missing_ok=True)
    return True


def _checkpoint(runs: list[Run]) -> Path:
    """Return where the program of these runs keeps its state: beside the first one's, with which it is deleted."""
    states = [training_state(run) for run in runs]
    places = hashlib.sha256(" ".join(map(str, states)).encode()).hexdigest()[:16]
    return states[0].with_name(f"together--{places}.pt")


def _make(run: Run) -> tuple[nn.Module, Dataset, Profile]:
    """Return the model that a run's stage trains, its data, and its recipe, made as `grid.execute` makes them."""
    recipe, task = here(run.recipe), load_task(run.task, run.profile)
    model = load_backbone(
        recipe.backbone, classes=task.classes, image_size=recipe.image_size, weights=recipe.weights,
        drop_path=recipe.drop_path, seed=run.seed,
    )  # fmt: skip
    torch.manual_seed(run.seed)
    return adapted(run, recipe, model), task.train, recipe
