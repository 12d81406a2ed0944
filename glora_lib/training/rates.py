"""The learning rate at every step: linear warm-up to each group's own peak, then half a cosine.

Knows no model: a recipe is any object with epochs, warmup_epochs, first_learning_rate and final_learning_rate.
"""

import math

import torch
from torch import Tensor


def schedule(epoch: float, recipe) -> tuple[float, float]:
    """Return (height, floor) at a point of the schedule: a group's rate is peak * height + floor * (1 - height).

    While it warms up, the rate rises from `first_learning_rate`, afterwards it falls to `final_learning_rate`.
    """
    if epoch < recipe.warmup_epochs:
        return epoch / recipe.warmup_epochs, recipe.first_learning_rate
    progress = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * progress)), recipe.final_learning_rate


def set_rates(optimizer: torch.optim.Optimizer, epoch: float, recipe) -> None:
    """Set the rate of every group of the optimiser, which `loop.adamw` gave its "peak", at a point of the schedule."""
    height, floor = schedule(epoch, recipe)
    for group in optimizer.param_groups:
        rate = group["peak"] * height + floor * (1 - height)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # a graph reads it where it is
        else:
            group["lr"] = rate
