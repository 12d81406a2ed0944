"""Many trainings as one program: runs that share a frozen backbone train in the same kernels, on a GPU as one CUDA graph.

Every run keeps its own data and their order, seed, number of classes and learning rates, and ends as `loop.train` would have
ended it: exactly but for rounding on a processor, where each run's dropout draws from a generator of its own; on a GPU dropout
draws from the device's, so that a run's noise is another one in another company.
"""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset, RandomSampler

from glora_lib.training import checkpoint as checkpoints
from glora_lib.training import deadline
from glora_lib.training.batch import TrainingError, autocast, check_labels, full, parts_on_a_processor
from glora_lib.training.choices import Choices
from glora_lib.training.device import generator_state
from glora_lib.training.flat_adamw import FlatAdamW
from glora_lib.training.graph import Graphed
from glora_lib.training.head import head_parameters
from glora_lib.training.loop import SETTINGS, adamw, at, train_mode
from glora_lib.training.rates import schedule
from glora_lib.training.stacked import Stack, Unsuited

ALIKE = ("epochs", "batch_size", "update_unsampled", "dtype", "weight_decay")  # what the recipes of a program have in common
PAUSE = 30.0  # seconds between checkpoints on a GPU, where an epoch takes less than writing one


def train_many(
    models: Sequence[nn.Module],
    data: Sequence[Dataset],
    recipes: Sequence,
    *,
    seeds: Sequence[int],
    choices: Choices | None = None,
    checkpoint: str | Path | None = None,
    watch: Callable[[int], dict] | None = None,
) -> list[list[dict]]:
    """Train the models together, each on its own data; return each one's history, as `loop.train` does.

    Args:
        models: made alike, with the same frozen weights; their trained parameters are changed.
        recipes: as for `loop.train`, one a run; `ALIKE` says what they must share.
        choices: for supernets, which sample a configuration a step.
        checkpoint: a file that all go on from together, written every epoch (on a GPU at most every half minute).
        watch: called with the epoch after it ended, all models being what they have become, in evaluation mode; the dict that
            it returns joins the epoch's of each.

    Raises Unsuited where the runs cannot be one program, TrainingError as `loop.train`, and OutOfTime after an epoch when the
    deadline has passed (`deadline.until`) and there is a checkpoint.
    """
    program = Program(models, data, recipes, seeds, choices)
    if checkpoint is not None and Path(checkpoint).exists():
        program.resume(Path(checkpoint))
    saved = time.monotonic()
    while program.epoch < recipes[0].epochs:
        program.train_epoch()
        if watch is not None:
            program.leave(models)
            seen = watch(program.epoch - 1)
            for history in program.histories:
                history[-1] |= seen
        if checkpoint is None:
            continue
        last, late = program.epoch == recipes[0].epochs, deadline.passed()
        if last or late or program.device.type == "cpu" or time.monotonic() - saved > PAUSE:
            program.save(Path(checkpoint))
            saved = time.monotonic()
        if late and not last:
            done = f"{program.epoch} of {recipes[0].epochs} epochs of {len(models)} runs are kept in {checkpoint}"
            raise deadline.OutOfTime(f"time is up: {done}")
    program.leave(models)
    return program.histories


class Program:
    """The runs as one program; `train_many` has the meaning of the arguments.

    Attributes:
        stack: the models as one, with everything that is trained.
        histories: of every run, as `train_many` returns them.
    """

    def __init__(self, models, data, recipes, seeds, choices: Choices | None):
        for name in ALIKE:
            if len({getattr(recipe, name) for recipe in recipes}) > 1:
                raise Unsuited(f"the recipes differ in {name}; train the runs one by one")
        if len({len(split) for split in data}) > 1:
            raise Unsuited(f"the data have {[len(split) for split in data]} images; train the runs one by one")
        self.recipes, self.recipe, self.choices = recipes, recipes[0], choices
        self.device = next(models[0].parameters()).device
        self.data = [at(split, self.device) for split in data]
        train_mode(models[0])
        example = self.data[0][list(range(min(2, len(data[0]))))][0].to(self.device)
        like = next(models[0].parameters())
        form = (choices.form, choices.formed) if choices else ()
        self.stack = Stack(models, example.to(like.dtype), *form, own_noise=self.device.type == "cpu")
        same = (self.recipe.weight_decay, self.recipe.update_unsampled)
        self.optimizer = FlatAdamW(self.stack.tensors, self.stack.sizes, *same)
        peaks = [_peaks(model, recipe, self.stack.names) for model, recipe in zip(models, recipes, strict=True)]
        self.peaks = torch.tensor(peaks, dtype=torch.float64, device=self.device)  # (runs, tensors)
        self.orders = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.draws = [random.Random(seed) for seed in seeds]
        self.noises = [torch.Generator().manual_seed(seed) for seed in seeds]
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seeds[0])  # the device need not be the current one
        own = [{name: getattr(recipe, name) for name in SETTINGS} for recipe in recipes]
        self.settings = {"runs": own, "seeds": list(seeds), "images": len(data[0])}
        self.belongs = {f"run {i}": str(checkpoints.belonging(m, d)) for i, (m, d) in enumerate(zip(models, data, strict=True))}
        self.belongs |= checkpoints.sampling(choices.sample if choices else None)
        self.histories: list[list[dict]] = [[] for _ in models]
        for split, valid in zip(data, self.stack.valid, strict=True):
            labels = split.labels if hasattr(split, "labels") else split[list(range(len(split)))][1]
            check_labels(labels, int(valid.isfinite().sum()))
        self.step = Graphed(self._step, self.device)

    @property
    def epoch(self) -> int:
        """How many epochs are whole."""
        return len(self.histories[0])

    def train_epoch(self) -> None:
        """Train every run on all its images once, in its own order."""
        start, losses, counts = time.perf_counter(), [], []
        samplers = [
            BatchSampler(RandomSampler(split, generator=order), self.recipe.batch_size, drop_last=False)
            for split, order in zip(self.data, self.orders, strict=True)
        ]
        for number, places in enumerate(zip(*samplers, strict=True)):
            rates = self._rates(self.epoch + number / len(samplers[0]))
            losses.append(self.train_batch(places, rates).clone())
            counts.append(len(places[0]))
        values = torch.stack(losses).double().cpu()  # (steps, runs)
        self._check(values)
        means = (values * torch.tensor(counts, dtype=torch.float64)[:, None]).sum(0) / len(self.data[0])
        last = rates[:, 0].tolist()  # of the first tensor's group, as `loop.train` says
        seconds = (time.perf_counter() - start) / len(self.histories)
        epoch = self.epoch
        for history, loss, rate in zip(self.histories, means.tolist(), last, strict=True):
            history.append({"epoch": epoch, "loss": loss, "learning_rate": rate, "seconds": seconds})

    def leave(self, models: Sequence[nn.Module]) -> None:
        """Make the models what they have become, in evaluation mode."""
        self.stack.give_back(models)
        for model in models:
            model.eval()

    def train_batch(self, places: Sequence[list[int]], rates: Tensor | None = None) -> Tensor:
        """Train one batch of every run, the images at these places of its data; return the losses (runs,).

        `rates` (runs, tensors) are the peaks where none are given. The next call overwrites what is returned.
        """
        # drawn first: a GPU may still be at the batch before, which the first look into data there waits for
        codes = torch.tensor([self.choices.sample(draw) if self.choices else [] for draw in self.draws])
        batches = [split[place] for split, place in zip(self.data, places, strict=True)]
        x = torch.stack([images for images, _ in batches]).to(self.device, self.stack.tensors.dtype)
        labels = torch.stack([labels for _, labels in batches]).to(self.device)
        if self.device.type == "cpu":
            self._draw_noise([len(part) for part in x[0].chunk(parts_on_a_processor(x[0]))])
        return self.step(x, labels, codes.to(self.device), self.peaks if rates is None else rates)

    def _rates(self, epoch: float) -> Tensor:
        """Return the rates of all tensors, (runs, tensors), at a point of the schedule."""
        points = torch.tensor([schedule(epoch, recipe) for recipe in self.recipes], dtype=torch.float64, device=self.device)
        height, floor = points[:, :1], points[:, 1:]
        return self.peaks * height + floor * (1 - height)

    def _step(self, x: Tensor, labels: Tensor, codes: Tensor, rates: Tensor) -> Tensor:
        """Train one batch of every run; return the losses (runs,)."""
        sampled = None
        if self.choices is not None:
            self.choices.set(codes)
            sampled = self.choices.sampled(codes, self.stack.names)
        with autocast(self.recipe.dtype, self.device):
            losses = (
                F.cross_entropy(full(self.stack(x)).flatten(0, 1), labels.flatten(), reduction="none")
                .unflatten(0, labels.shape)
                .mean(1)
            )
        (gradient,) = torch.autograd.grad(losses.sum(), self.stack.tensors)
        self.optimizer.step(gradient, rates, sampled)
        return losses.detach()

    def _draw_noise(self, sizes: Sequence[int]) -> None:
        """Draw the masks of dropout and drop path, each run's from its own generator and in the parts that it takes alone."""
        drawn = [
            [noise.draw(size, generator) for noise in self.stack.noise] for generator in self.noises for size in sizes
        ]  # (runs * parts, modules)
        for noise, masks in zip(self.stack.noise, zip(*drawn, strict=True), strict=False):
            noise.mask = torch.cat(masks)

    def _check(self, losses: Tensor) -> None:
        broken = (~losses.isfinite()).nonzero()
        if len(broken):
            step, run = broken[0].tolist()
            raise TrainingError(
                f"the loss of run {run} of {len(self.recipes)} is {losses[step, run]:.3g} at epoch {self.epoch}, step {step}, "
                f"peak rate {self.recipes[run].learning_rate:.1e}; lower its rate or leave it out: the last checkpoint stays"
            )

    def save(self, path: Path) -> None:
        """Write everything that the rest of the training depends on."""
        state = {
            "settings": self.settings,
            "belongs": self.belongs,
            "tensors": self.stack.tensors.detach(),
            "optimizer": self.optimizer.state(),
            "orders": [order.get_state() for order in self.orders],
            "noises": [noise.get_state() for noise in self.noises],
            "draws": [draw.getstate() for draw in self.draws],
            "device": generator_state(self.device),
            "histories": self.histories,
        }
        checkpoints.write(path, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint of the same runs, in the same order."""
        state = checkpoints.load(path, self.settings, self.belongs, keys=("tensors", "orders", "histories"))
        with torch.no_grad():
            self.stack.tensors.copy_(state["tensors"])
        self.optimizer.load(state["optimizer"])
        for kind, generators in (("orders", self.orders), ("noises", self.noises)):
            for generator, before in zip(generators, state[kind], strict=True):
                generator.set_state(before)
        for draw, before in zip(self.draws, state["draws"], strict=True):
            draw.setstate(before)
        if self.device.type == "cuda" and state["device"] is not None:
            torch.cuda.set_rng_state(state["device"], self.device)
        self.histories = state["histories"]


def _peaks(model: nn.Module, recipe, names: Sequence[str]) -> list[float]:
    """Return the peak of every tensor's rate, by the groups that `loop.train` would have."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = adamw(trained, recipe, head_parameters(model)).param_groups
    peaks = {id(parameter): group["peak"] for group in groups for parameter in group["params"]}
    return [peaks[id(model.get_parameter(name))] for name in names]
