"""One training loop for the supernet, for a fixed configuration and for every baseline.

Knows torch and nothing of this project: a model, a data set that is indexed with lists, and a recipe, which is any object with
the training fields of `Profile` (epochs, batch_size, learning_rate, head_learning_rate, weight_decay, warmup_epochs,
first_learning_rate, final_learning_rate, update_unsampled, dtype). Model and data meet on the model's device.
"""

import math
import random
import time
import warnings
from collections.abc import Callable, Container
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from glora_lib.training import checkpoint as checkpoints
from glora_lib.training import deadline
from glora_lib.training.batch import BatchNorm, Gradients, TrainingError
from glora_lib.training.device import generator_state
from glora_lib.training.graph import Graphed
from glora_lib.training.head import head_parameters
from glora_lib.training.rates import set_rates

SETTINGS = (
    *("epochs", "batch_size", "learning_rate", "head_learning_rate", "weight_decay", "warmup_epochs"),
    *("first_learning_rate", "final_learning_rate", "update_unsampled", "dtype"),
)


def train(
    model: nn.Module,
    data: Dataset,
    recipe,
    *,
    sample: Callable[[random.Random], object] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    watch: Callable[[int], dict] | None = None,
) -> list[dict]:
    """Train the parameters of `model` that require a gradient; return one dict an epoch: epoch, loss, learning_rate, seconds.

    AdamW, cross-entropy, and a cosine schedule with linear warm-up that is set at every step (the authors set theirs once an
    epoch, and so train epochs 0 and 1 at the first rate). The last, smaller batch is kept (the authors drop it).

    Args:
        data: `data[list_of_indices]` gives a batch (images, labels).
        sample: draws a configuration for every step, which `model.use` then takes (`space.sample` for a supernet).
        seed: fixes the order of the data, the configurations, and torch's global generator (dropout, drop path).
        checkpoint: a file that training goes on from if it exists, written after every epoch, and left there at the end.
            The result is the same as that of a run that was never interrupted.
        watch: called with the epoch after it ended, in evaluation mode; the dict that it returns joins the epoch's.

    Raises TrainingError on a loss that is not finite (the last checkpoint stays), for labels or outputs that do not suit each
    other, and for a checkpoint of other settings, data, frozen weights or configurations; OutOfTime after an epoch that was
    kept when the deadline has passed (`deadline.until`).
    """
    if isinstance(recipe, str):
        raise TrainingError(f"the recipe is the name {recipe!r}; give the profile that is called so")
    device = next(model.parameters()).device
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    heads = head_parameters(model)
    optimizer = adamw(trained, recipe, heads)
    torch.manual_seed(seed)
    order, draw = torch.Generator().manual_seed(seed), random.Random(seed)
    history: list[dict] = []
    if checkpoint is not None:
        kept = whole(model, data, recipe, seed, sample)
        if Path(checkpoint).exists():
            state = checkpoints.load(Path(checkpoint), kept["settings"], kept["belongs"])
            history = checkpoints.restore(Path(checkpoint), state, trained, kept["buffers"], optimizer, order, draw)
            if recipe.update_unsampled:  # a tensor with momentum had a gradient once, and zeros since: never None again
                for parameter in optimizer.state:
                    parameter.grad = torch.zeros_like(parameter)

    data = at(data, device)
    step = train_step(model, recipe, optimizer, fixed=sample is None)
    batches = BatchSampler(RandomSampler(data, generator=order), recipe.batch_size, drop_last=False)
    # a generator of its own keeps the loader from drawing on the global one, which dropout uses
    loader = DataLoader(data, sampler=batches, batch_size=None, generator=torch.Generator())
    for epoch in range(len(history), recipe.epochs):
        start, losses, images_seen = time.perf_counter(), [], []
        train_mode(model)
        for number, (images, labels) in enumerate(loader):
            set_rates(optimizer, epoch + number / len(batches), recipe)
            if sample is not None:
                model.use(sample(draw))
            losses.append(step(images.to(device), labels.to(device)).clone())
            if sample is None and epoch == number == 0:
                _warn_of_idle([parameter for name, parameter in trained.items() if name not in heads])
            images_seen.append(len(labels))
            if device.type == "cpu":  # on a GPU, asking for a number would wait for all that was asked for before
                _check(losses[-1].item(), epoch, number, optimizer, checkpoint)
        losses = torch.stack(losses).tolist()
        for number, loss in enumerate(losses):
            _check(loss, epoch, number, optimizer, checkpoint)
        model.eval()
        total = sum(loss * count for loss, count in zip(losses, images_seen, strict=True))
        rate = float(optimizer.param_groups[0]["lr"])
        epoch_record = {"epoch": epoch, "loss": total / len(data), "learning_rate": rate}
        epoch_record["seconds"] = time.perf_counter() - start
        history.append(epoch_record | (watch(epoch) if watch else {}))
        if checkpoint is not None:
            going_on = {"optimizer": optimizer, "order": order, "draw": draw, "history": history}
            checkpoints.save(Path(checkpoint), **kept, **going_on, device=generator_state(device))
            if epoch + 1 < recipe.epochs:
                deadline.check(f"{epoch + 1} of {recipe.epochs} epochs are kept in {checkpoint}")
    model.eval()
    return history


def whole(model: nn.Module, data: Dataset, recipe, seed: int, sample=None) -> dict:
    """Return what a checkpoint of this training says of it and holds of the model."""
    return {
        "settings": {name: getattr(recipe, name) for name in SETTINGS} | {"seed": seed, "images": len(data)},
        "belongs": checkpoints.belonging(model, data) | checkpoints.sampling(sample),
        "trained": {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad},
        "buffers": dict(model.named_buffers()),
    }


def train_step(model: nn.Module, recipe, optimizer=None, fixed: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that trains one batch (images, labels) and returns its loss.

    On a GPU it is a graph if each step is the same kernels (`fixed`): nothing is sampled.
    """
    device = next(model.parameters()).device
    if optimizer is None:
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        optimizer = adamw(trained, recipe, head_parameters(model))
    gradients = Gradients(model, recipe.dtype)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        # None lets AdamW skip the tensors that this step did not sample; zeros would let its momentum move them
        optimizer.zero_grad(set_to_none=fixed or not recipe.update_unsampled)
        loss = gradients(images, labels)
        if device.type != "cpu" or math.isfinite(loss):
            optimizer.step()
        return loss

    return Graphed(step, device) if fixed else step


def _warn_of_idle(parameters: list[nn.Parameter]) -> None:
    """Warn if none of the parameters, which are not the head's, got a gradient."""
    if parameters and all(parameter.grad is None for parameter in parameters):
        warnings.warn(
            "the head alone is trained: the model uses none of its other trained tensors; a supernet needs `sample`, or a "
            "configuration before (`use`)",
            stacklevel=3,
        )


def _check(loss: float, epoch: int, number: int, optimizer, checkpoint) -> None:
    """Raise a TrainingError for a loss that is not finite."""
    if not math.isfinite(loss):
        rate = float(optimizer.param_groups[0]["lr"])
        kept = f"; the state after {epoch} whole epochs is in {checkpoint}" if checkpoint and epoch else ""
        raise TrainingError(
            f"the loss is {loss} at epoch {epoch}, step {number}, learning rate {rate:.1e}; lower the rate "
            f"or set scale_broadcast{kept}"
        )


def at(data: Dataset, device: torch.device) -> Dataset:
    """Return the data where the model is: on a GPU, data that can move (`to`) are moved once instead of batch by batch.

    Raises TrainingError for data without examples, and for data that give no batch for a list of indices.
    """
    if not len(data):
        raise TrainingError("the data have no examples; look at how they were split")
    if not hasattr(data, "labels"):
        try:
            images, labels = data[[0]]
            assert len(images) == len(labels) == 1
        except Exception as error:
            raise TrainingError(
                f"{type(data).__name__}[[0]] gives no batch of one image and its label ({type(error).__name__}: {error}); "
                "a data set must take a list of indices, as TensorDataset does; others need a wrapper that stacks"
            ) from error
    return data.to(device) if device.type != "cpu" and hasattr(data, "to") else data


def adamw(trained: dict[str, nn.Parameter], recipe, heads: Container[str] = ()) -> torch.optim.AdamW:
    """Return the optimiser of named parameters: two groups, since a fresh head may want another peak than what starts at zero.

    `heads` are the names of those that are the head's.

    Raises TrainingError if there is nothing to train.
    """
    head = [parameter for name, parameter in trained.items() if name in heads]
    others = [parameter for name, parameter in trained.items() if name not in heads]
    groups = [(others, recipe.learning_rate), (head, recipe.head_learning_rate)]
    groups = [{"params": members, "lr": peak, "peak": peak} for members, peak in groups if members]
    if not groups:
        raise TrainingError("no parameter of this model requires a gradient; adapt it first")
    on_gpu = groups[0]["params"][0].device.type == "cuda"
    if on_gpu:  # where a graph finds the rate, and the number of steps
        groups = [group | {"lr": torch.tensor(group["lr"], device=group["params"][0].device)} for group in groups]
    # fused: one call for all tensors; they are many and small, and a call for each takes six times as long
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True, capturable=on_gpu)


def train_mode(model: nn.Module) -> None:
    """Set training mode, but for batch normalisation whose scale is frozen: its statistics belong to the pretrained weights."""
    model.train()
    for module in model.modules():
        if isinstance(module, BatchNorm) and (module.weight is None or not module.weight.requires_grad):
            module.eval()
