"""Training a causal language model on labelled tokens: the loop, the loss, and its mean over data.

Knows torch and causal language models of transformers, also inside a wrapper that has one as its attribute `model`. The recipe
is any object with the training fields of `LanguageProfile`.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset, RandomSampler

from glora_lib.training import checkpoint as checkpoints
from glora_lib.training.batch import TrainingError, autocast
from glora_lib.training.device import generator_state
from glora_lib.training.loop import SETTINGS, adamw
from glora_lib.training.rates import set_rates


def finetune(
    model: nn.Module,
    data: Dataset,
    recipe,
    *,
    sample: Callable[[random.Random], object] | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
) -> list[dict]:
    """Train what requires a gradient on labelled tokens; return one dict an epoch: epoch, loss, tokens, seconds.

    AdamW and a cosine schedule, as in `loop.train`. A step of the optimiser follows `recipe.accumulate` batches, whose mean
    losses weigh the same; each of them draws its own configuration, as the authors' layer does at every forward pass.

    Args:
        data: `data[list_of_indices]` gives (tokens, labels), both (B, T); a label of -100 is none.
        sample, seed, checkpoint: as in `loop.train`.

    Raises TrainingError for a loss that is not finite (the last checkpoint stays), and for a checkpoint of other settings, data
    or frozen weights.
    """
    device = next(model.parameters()).device
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = adamw(trained, recipe)
    torch.manual_seed(seed)
    order, draw = torch.Generator().manual_seed(seed), random.Random(seed)
    history: list[dict] = []
    if checkpoint is not None:
        settings = {name: getattr(recipe, name) for name in (*SETTINGS, "accumulate")} | {"seed": seed, "texts": len(data)}
        belongs = checkpoints.belonging(model, data) | checkpoints.sampling(sample)
        kept = {"settings": settings, "belongs": belongs, "trained": trained, "buffers": {}}
        if Path(checkpoint).exists():
            state = checkpoints.load(Path(checkpoint), settings, belongs)
            history = checkpoints.restore(Path(checkpoint), state, trained, {}, optimizer, order, draw)

    batches = BatchSampler(RandomSampler(data, generator=order), recipe.batch_size, drop_last=False)
    for epoch in range(len(history), recipe.epochs):
        start, losses, counts = time.perf_counter(), [], []
        model.train()
        groups = _in_groups(list(batches), recipe.accumulate)
        for step, group in enumerate(groups):
            set_rates(optimizer, epoch + step / len(groups), recipe)
            optimizer.zero_grad(set_to_none=not recipe.update_unsampled)
            for batch in group:
                if sample is not None:
                    model.use(sample(draw))
                tokens, labels = (tensor.to(device) for tensor in data[batch])
                with autocast(recipe.dtype, device):  # the backward pass too, which computes what was not kept again
                    mean = loss(model, tokens, labels).mean()
                    _check(mean, epoch, step, optimizer, checkpoint)
                    (mean / len(group)).backward()
                losses.append(mean.item())
                counts.append(tokens.numel())
            optimizer.step()
        seconds = time.perf_counter() - start
        history.append({"epoch": epoch, "loss": sum(losses) / len(losses), "tokens": sum(counts), "seconds": seconds})
        if checkpoint is not None:
            going_on = {"optimizer": optimizer, "order": order, "draw": draw, "history": history}
            checkpoints.save(Path(checkpoint), **kept, **going_on, device=generator_state(device))
    model.eval()
    return history


def _check(mean: Tensor, epoch: int, step: int, optimizer, checkpoint) -> None:
    if not mean.isfinite():
        kept = f"; the state after {epoch} whole epochs is in {checkpoint}" if checkpoint and epoch else ""
        rate = optimizer.param_groups[0]["lr"]
        raise TrainingError(
            f"the loss is {mean.item()} at epoch {epoch}, step {step}, learning rate {rate:.1e}; lower it{kept}"
        )


def loss(model: nn.Module, tokens: Int64[Tensor, "batch T"], labels: Int64[Tensor, "batch T"]) -> Float[Tensor, " n"]:
    """Return the cross-entropy of every labelled token, in nats, each predicted from those before it.

    Padding on the right changes nothing. The output layer, a fifth of a small model, is computed for these tokens alone.
    """
    causal = model if hasattr(model, "get_output_embeddings") else model.model
    asked = labels[:, 1:] != -100
    hidden = causal.get_decoder()(tokens, use_cache=False).last_hidden_state[:, :-1][asked]
    return F.cross_entropy(causal.get_output_embeddings()(hidden).float(), labels[:, 1:][asked], reduction="none")


@torch.no_grad()
def mean_loss(model: nn.Module, data: Dataset, *, batch_size: int = 8, dtype: str = "float32") -> float:
    """Return the mean cross-entropy of all labelled tokens of `data`, in nats a token, in evaluation mode.

    Raises TrainingError for one that is not finite.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(data), batch_size):
        tokens, labels = data[list(range(start, min(start + batch_size, len(data))))]
        with autocast(dtype, device):
            parts.append(loss(model, tokens.to(device), labels.to(device)).double().cpu())
    model.train(was_training)
    mean = torch.cat(parts).mean()
    if not mean.isfinite():
        raise TrainingError(f"the mean loss is {mean.item()}: look for NaN or infinity in the model's weights")
    return float(mean)


def _in_groups(batches: list, size: int) -> list[list]:
    return [batches[start : start + size] for start in range(0, len(batches), size)]
