"""One training loop for the supernet, for a fixed configuration and for every baseline; and top-1 accuracy.

Knows torch and nothing of this project: a model, a data set that is indexed with lists, and a recipe, which is any object with
the training fields of `Profile` (epochs, batch_size, learning_rate, head_learning_rate, weight_decay, warmup_epochs,
first_learning_rate, final_learning_rate, update_unsampled, dtype).
"""

import math
import os
import random
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

SETTINGS = (
    *("epochs", "batch_size", "learning_rate", "head_learning_rate", "weight_decay", "warmup_epochs"),
    *("first_learning_rate", "final_learning_rate", "update_unsampled", "dtype"),
)

PART = 2**20  # numbers in the images whose activations are in memory at once, on a processor: 36 images of 98 pixels
BatchNorm = nn.modules.batchnorm._BatchNorm


class TrainingError(RuntimeError):
    """Training cannot go on, or a checkpoint cannot be used; the message says why and what mends it."""


def train(
    model: nn.Module,
    data: Dataset,
    recipe,
    *,
    sample: Callable[[random.Random], object] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    watch: Callable[[int], dict] | None = None,
    gradients: Callable[..., float] | None = None,
    accumulate: int = 1,
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
        gradients: `backward`, or what does the same for other data than images: `language.backward`.
        accumulate: batches whose gradients make one step of the optimiser; a configuration is drawn for each of them.

    Raises TrainingError on a loss that is not finite (the last checkpoint stays), and for a checkpoint of other settings.
    """
    device = next(model.parameters()).device
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = adamw(trained, recipe)
    torch.manual_seed(seed)
    order, draw = torch.Generator().manual_seed(seed), random.Random(seed)
    settings = {name: getattr(recipe, name) for name in SETTINGS} | {"seed": seed, "images": len(data)}
    settings |= {"accumulate": accumulate} if accumulate > 1 else {}
    history: list[dict] = []
    if checkpoint is not None and Path(checkpoint).exists():
        history = _resume(Path(checkpoint), settings, trained, optimizer, order, draw)

    batches = BatchSampler(RandomSampler(data, generator=order), recipe.batch_size, drop_last=False)
    # a generator of its own keeps the loader from drawing on the global one, which dropout uses
    loader = DataLoader(data, sampler=batches, batch_size=None, generator=torch.Generator())
    for epoch in range(len(history), recipe.epochs):
        start, losses = time.perf_counter(), []
        _train_mode(model)
        for step, (images, labels) in enumerate(loader):
            first = step - step % accumulate  # of the batches that make this step
            factor = schedule(epoch + first / len(batches), recipe)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor + recipe.final_learning_rate * (1 - factor)
            if sample is not None:
                model.use(sample(draw))
            if step == first:
                # None lets AdamW skip the tensors that this step did not sample; zeros would let its momentum move them
                optimizer.zero_grad(set_to_none=not recipe.update_unsampled)
            loss = (gradients or backward)(model, images.to(device), labels.to(device), recipe.dtype)
            if not math.isfinite(loss):
                rate = optimizer.param_groups[0]["lr"]
                kept = f"; the state after {epoch} whole epochs is in {checkpoint}" if checkpoint and epoch else ""
                raise TrainingError(
                    f"the loss is {loss} at epoch {epoch}, step {step}, learning rate {rate:.1e}; lower the rate "
                    f"or set scale_broadcast{kept}"
                )
            losses.append(loss * len(labels))
            if (members := step - first + 1) == accumulate or step + 1 == len(batches):
                _average(trained.values(), members)
                optimizer.step()
        model.eval()
        epoch_record = {"epoch": epoch, "loss": sum(losses) / len(data), "learning_rate": optimizer.param_groups[0]["lr"]}
        epoch_record["seconds"] = time.perf_counter() - start
        history.append(epoch_record | (watch(epoch) if watch else {}))
        if checkpoint is not None:
            _save(Path(checkpoint), settings, trained, optimizer, order, draw, history)
    model.eval()
    return history


def adamw(trained: dict[str, nn.Parameter], recipe) -> torch.optim.AdamW:
    """Return the optimiser of named parameters: two groups, since a fresh head may want another peak than what starts at zero.

    Raises TrainingError if there is nothing to train.
    """
    head = [parameter for name, parameter in trained.items() if "head" in name.split(".")]
    others = [parameter for name, parameter in trained.items() if "head" not in name.split(".")]
    groups = [(others, recipe.learning_rate), (head, recipe.head_learning_rate)]
    groups = [{"params": members, "lr": peak, "peak": peak} for members, peak in groups if members]
    if not groups:
        raise TrainingError("no parameter of this model requires a gradient; adapt it first")
    # fused: one call for all tensors; they are many and small, and a call for each takes six times as long
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)


def backward(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: str = "float32", part_size: int = PART
) -> float:
    """Add the gradients of the batch's mean cross-entropy to the parameters'; return the loss.

    A processor takes a batch of more than `part_size` numbers in parts, whose gradients add up to the batch's: it is no slower
    for that, and memory holds the activations of one part. A GPU gets the whole batch, and so does a model that normalises over
    batches.
    """
    whole = images.device.type != "cpu" or any(isinstance(m, BatchNorm) and m.training for m in model.modules())
    parts = 1 if whole else math.ceil(images.numel() / part_size)
    total = 0.0
    for part, answers in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        with autocast(dtype, images.device):
            loss = F.cross_entropy(model(part).float(), answers) * (len(answers) / len(labels))
        loss.backward()
        total += loss.item()
    return total


def schedule(epoch: float, recipe) -> float:
    """Return the rate's height between its floor (0) and its peak (1): linear warm-up, then half a cosine.

    At 0 the rate is `final_learning_rate`; the warm-up starts from `first_learning_rate`, which may lie below.
    """
    peak, floor = recipe.learning_rate, recipe.final_learning_rate
    if epoch < recipe.warmup_epochs:
        rate = recipe.first_learning_rate + (peak - recipe.first_learning_rate) * epoch / recipe.warmup_epochs
        return (rate - floor) / (peak - floor) if peak != floor else 1.0
    progress = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset, *, batch_size: int = 250, dtype: str = "float32") -> float:
    """Return the top-1 accuracy of `model` on all of `data`, between 0 and 1, in evaluation mode."""
    return float((predict(model, data, batch_size=batch_size, dtype=dtype) == _labels(data, batch_size)).double().mean())


@torch.no_grad()
def predict(model: nn.Module, data: Dataset, *, batch_size: int = 250, dtype: str = "float32") -> torch.Tensor:
    """Return the predicted class of every example, (N,) int64, in evaluation mode."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with autocast(dtype, device):
        classes = [model(images.to(device)).argmax(-1).cpu() for images, _ in _in_order(data, batch_size)]
    model.train(was_training)
    return torch.cat(classes)


@contextmanager
def autocast(dtype: str, device: torch.device):
    """Return the context in which a model computes in `dtype`, "float32" or "bfloat16"; weights stay as they are."""
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype {dtype!r} is not known; valid: float32, bfloat16")
    if dtype == "float32":
        yield
        return
    # on a processor the backward pass of the fused kernel is slow in bfloat16 for few tokens; the values are the same
    plain_attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with plain_attention, torch.autocast(device.type, torch.bfloat16):
        yield


def _in_order(data: Dataset, batch_size: int) -> DataLoader:
    return DataLoader(data, sampler=BatchSampler(SequentialSampler(data), batch_size, drop_last=False), batch_size=None)


def _labels(data: Dataset, batch_size: int) -> torch.Tensor:
    labels = getattr(data, "labels", None)  # saves decoding the images again
    return labels if labels is not None else torch.cat([labels for _, labels in _in_order(data, batch_size)])


def _average(trained, members: int) -> None:
    """Make of a sum of gradients their mean."""
    for parameter in trained:
        if members > 1 and parameter.grad is not None:
            parameter.grad /= members


def _train_mode(model: nn.Module) -> None:
    """Training mode, but for frozen batch normalisation: its running statistics belong to the pretrained weights."""
    model.train()
    for module in model.modules():
        if isinstance(module, BatchNorm) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def _save(path: Path, settings, trained, optimizer, order, draw, history) -> None:
    """Write a checkpoint to a temporary file and rename it, so that there is always a whole one."""
    state = {
        "settings": settings,
        "parameters": {name: parameter.detach() for name, parameter in trained.items()},
        "optimizer": optimizer.state_dict(),
        "order": order.get_state(),
        "torch": torch.get_rng_state(),
        "draw": draw.getstate(),
        "history": history,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f"{path.suffix}.{os.getpid()}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _resume(path: Path, settings, trained, optimizer, order, draw) -> list[dict]:
    """Put everything back as it was after the last whole epoch; return the history so far."""
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        raise TrainingError(f"the checkpoint {path} cannot be read ({error}); delete it to start again") from error
    if state["settings"] != settings:
        changed = {
            name: (state["settings"].get(name), value)
            for name, value in settings.items()
            if state["settings"].get(name) != value
        }
        raise TrainingError(
            f"the checkpoint {path} was made with other settings, (there, here): {changed}; delete it or restore them"
        )
    shapes = {name: parameter.shape for name, parameter in trained.items()}
    if {name: tensor.shape for name, tensor in state["parameters"].items()} != shapes:
        raise TrainingError(f"the checkpoint {path} holds other parameters than this model trains; delete it or adapt alike")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state["parameters"][name])
    optimizer.load_state_dict(state["optimizer"])
    if settings["update_unsampled"]:  # a tensor with momentum had a gradient once, and zeros since: never None again
        for parameter in optimizer.state:
            parameter.grad = torch.zeros_like(parameter)
    order.set_state(state["order"])
    torch.set_rng_state(state["torch"])
    draw.setstate(state["draw"])
    return state["history"]
