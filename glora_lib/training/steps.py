"""Training by a number of steps, for any loss: one cycle of stochastic gradient descent for images, and what others give it.

Knows torch and nothing of this project. Every step draws its batch and its noise from the seed and its number alone, so that a
run that goes on from a checkpoint ends as one that was never interrupted.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import Dataset

from glora_lib.training import checkpoint as checkpoints
from glora_lib.training.batch import Gradients, TrainingError
from glora_lib.training.head import head_parameters
from glora_lib.training.loop import at

PARTS = 10  # lines of the history of a run
KEYS = ("parameters", "optimizer", "scheduler", "history")


def one_cycle(model: nn.Module, data: Dataset, recipe, *, seed: int = 0, checkpoint: str | Path | None = None) -> list[dict]:
    """Train what requires a gradient as SuperLoRA's authors do (Sec. 4.1); return the history of `run_steps`.

    Stochastic gradient descent and torch's OneCycleLR with its defaults, which cycle the momentum between 0.95 and 0.85 too.

    Args:
        recipe: has `one_cycle`, with "steps", and `batch_size`, `learning_rate` (its peak; `head_learning_rate` for what is
            called head), `weight_decay` and `dtype`.

    Raises TrainingError as `run_steps` does, and if there is nothing to train.
    """
    trained, heads = {name: p for name, p in model.named_parameters() if p.requires_grad}, head_parameters(model)
    head = [p for name, p in trained.items() if name in heads]
    others = [p for name, p in trained.items() if name not in heads]
    groups = [(others, recipe.learning_rate), (head, recipe.head_learning_rate)]
    groups = [({"params": members}, rate) for members, rate in groups if members]
    if not groups:
        raise TrainingError("no parameter of this model requires a gradient; adapt it first")
    steps = recipe.one_cycle["steps"]
    optimizer = torch.optim.SGD([group for group, _ in groups], lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    scheduler = OneCycleLR(optimizer, max_lr=[rate for _, rate in groups], total_steps=steps)
    batches, gradients = Batches(len(data), recipe.batch_size, seed), Gradients(model, recipe.dtype)
    device = next(model.parameters()).device
    data = at(data, device)

    def step(number: int) -> float:
        images, labels = data[batches[number]]
        return float(gradients(images.to(device), labels.to(device)))

    model.train()
    settings = {"steps": steps, "batch_size": recipe.batch_size, "rates": [rate for _, rate in groups], "seed": seed}
    settings |= {"weight_decay": recipe.weight_decay, "dtype": recipe.dtype, "images": len(data)}
    kept = {} if checkpoint is None else {"checkpoint": checkpoint, "settings": settings}
    kept |= {} if checkpoint is None else {"belongs": checkpoints.belonging(model, data)}
    history = run_steps(trained, step, optimizer, scheduler, steps, seed=seed, **kept)
    model.eval()
    return history


def run_steps(
    trained: dict[str, nn.Parameter],
    step: Callable[[int], float],
    optimizer: Optimizer,
    scheduler: LRScheduler,
    steps: int,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    settings: dict | None = None,
    belongs: dict | None = None,
    clip: float | None = None,
) -> list[dict]:
    """Take `steps` steps; return ten dicts: step (the last one), loss (mean since the one before), learning_rate, seconds.

    Args:
        step: adds the gradients of step number n to those of `trained` and returns its loss; torch's generator is seeded.
        checkpoint: a file that training goes on from if it exists, written at each of those dicts.
        settings, belongs: what the checkpoint was made with and for, as in `checkpoint.load`.
        clip: the largest norm of all gradients together.

    Raises TrainingError on a loss that is not finite, and for a checkpoint of other settings, data or frozen weights.
    """
    kept, history = {"settings": settings or {}, "belongs": belongs or {}}, []
    if checkpoint is not None and Path(checkpoint).exists():
        state = checkpoints.load(Path(checkpoint), **kept, keys=KEYS)
        history = _restored(Path(checkpoint), state, trained, optimizer, scheduler)
    begun = history[-1]["step"] + 1 if history else 0
    start, losses, ends = time.perf_counter(), [], {math.ceil(steps * part / PARTS) - 1 for part in range(1, PARTS + 1)}
    for number in range(begun, steps):
        torch.manual_seed(seed * 1_000_003 + number)
        optimizer.zero_grad(set_to_none=True)
        loss = step(number)
        if not math.isfinite(loss):
            rate = optimizer.param_groups[0]["lr"]
            raise TrainingError(f"the loss is {loss} at step {number}, learning rate {rate:.1e}; lower the rate or the scale")
        if clip is not None:
            nn.utils.clip_grad_norm_(trained.values(), clip)
        losses.append(loss)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        if number + 1 < steps:
            scheduler.step()
        if number in ends:
            seconds = time.perf_counter() - start
            history.append({"step": number, "loss": sum(losses) / len(losses), "learning_rate": rate, "seconds": seconds})
            start, losses = time.perf_counter(), []
            if checkpoint is not None:
                parameters = {name: p.detach() for name, p in trained.items()}
                going_on = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "history": history}
                checkpoints.write(Path(checkpoint), kept | going_on | {"parameters": parameters})
    return history


class Batches:
    """The indices of each step's batch: one random order of all examples after another, cut into equal batches."""

    def __init__(self, examples: int, size: int, seed: int):
        self.examples, self.size, self.seed = examples, size, seed
        self.order = lru_cache(maxsize=4)(self._order)

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.examples, generator=generator).tolist()

    def __getitem__(self, step: int) -> list[int]:
        places = range(step * self.size, (step + 1) * self.size)
        return [self.order(place // self.examples)[place % self.examples] for place in places]


def _restored(path: Path, state: dict, trained, optimizer: Optimizer, scheduler: LRScheduler) -> list[dict]:
    """Put everything back as it was when the checkpoint was written; return the history so far."""
    if {name: p.shape for name, p in state["parameters"].items()} != {name: p.shape for name, p in trained.items()}:
        raise TrainingError(f"the checkpoint {path} holds other parameters than this model trains; delete it or adapt alike")
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(state["parameters"][name])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return state["history"]
