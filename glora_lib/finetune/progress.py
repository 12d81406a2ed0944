"""How long a run will take, before it starts, and how long it still takes, while it runs."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from glora_lib.data.task import Images, Task
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Space
from glora_lib.glora.supernet import train_supernet
from glora_lib.runs.profile import Profile
from glora_lib.training.accuracy import predict
from glora_lib.training.loop import train

STEPS, PICTURES = 4, 32  # that are timed
SCORED = 0.6  # of val that a search looks at, since subnets that are out of the running are not scored to the end


def expected(net: nn.Module, task: Task, recipe: Profile) -> str:
    """Return in words how long training and search will take on this machine, from a few steps of a copy of the model."""
    trial, short = copy.deepcopy(net), replace(recipe, epochs=2, warmup_epochs=0)
    space = Space(net.layer_names, recipe.ranks, net.kinds) if isinstance(net, AdaptedModel) else None
    state = torch.get_rng_state()
    number = min(len(task.train), STEPS * recipe.batch_size)
    few = _taken(task.train, number)
    history = train(trial, few, short) if space is None else train_supernet(trial, space, few, short)
    seconds = history[1]["seconds"] / number * len(task.train) * recipe.epochs  # the first epoch warms up
    torch.set_rng_state(state)
    text = f"{recipe.epochs} epochs of {len(task.train):,} pictures"
    if space is not None:
        shown, start = _taken(task.val, min(len(task.val), PICTURES)), time.perf_counter()
        predict(trial, shown, dtype=recipe.dtype)
        subnets = recipe.population * (1 + recipe.generations)
        seconds += (time.perf_counter() - start) / len(shown) * len(task.val) * subnets * SCORED
        text += f", then {subnets} subnets on {len(task.val):,}"
    return f"{text}: about {said(seconds)} on this machine"


class Progress:
    """Says after each epoch how far training is; `train` calls it as its `watch`."""

    def __init__(self, epochs: int, say: Callable[[str], None]):
        self.epochs, self.say, self.start, self.first = epochs, say, time.perf_counter(), None

    def __call__(self, epoch: int) -> dict:
        self.first = epoch if self.first is None else self.first  # the first of this process, after a kill
        done = epoch + 1 - self.first
        left = (time.perf_counter() - self.start) / done * (self.epochs - epoch - 1)
        again = f", going on from epoch {epoch}" if done == 1 and epoch else ""
        self.say(f"training: epoch {epoch + 1} of {self.epochs}{again}, {said(left)} left")
        return {}


def said(seconds: float) -> str:
    """Return a time in words: "40 s", "3 min"."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _taken(images: Images, number: int) -> Images:
    return Images(images.raw[list(range(number))], images.labels[:number])
