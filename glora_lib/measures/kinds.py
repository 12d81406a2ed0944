"""GLoRA on layers of any kind, in numbers: counts by kind, and how far a fused model is from the unfused one."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Space

COLUMNS = ("layers", "frozen", "choices", "trained", "stored", "gained")
FIRST = {"choices": "first"}  # is one layer's, not their sum


def by_kind(net: AdaptedModel, ranks: Sequence[int]) -> pd.DataFrame:
    """Return a row per kind of layer, and last "all".

    Columns: layers; frozen (their parameters); choices (of one layer); trained (of the supernet, head excluded); stored (by a
    random subnet, the exact mean); gained (biases that fusion adds if every layer that has none takes one).
    """
    space, rows, means = Space(net.layer_names, ranks, net.kinds), [], {}
    for name in net.layer_names:
        layer, kind, shape = net.layer(name), net.kinds[name], net.shapes[name]
        choices = space.choices(kind)
        if (kind, shape) not in means:
            one = Space(["one"], ranks, {"one": kind})
            means[kind, shape] = sum(one.parameters({"one": choice}, {"one": shape}) for choice in choices) / len(choices)
        frozen = sum(p.numel() for p in (layer.W0, layer.b0) if p is not None)
        trained = sum(p.numel() for p in layer.parameters(recurse=False) if p.requires_grad)
        gained = shape[0] if layer.b0 is None and any(choice.E != "none" for choice in choices) else 0
        rows.append((kind, 1, frozen, len(choices), trained, means[kind, shape], gained))
    table = (
        pd.DataFrame(rows, columns=["kind", *COLUMNS]).groupby("kind", sort=False).agg(dict.fromkeys(COLUMNS, "sum") | FIRST)
    )
    table.loc["all"] = table.sum()
    table.loc["all", "choices"] = float("nan")
    return table


@torch.no_grad()
def as_after_training(net: nn.Module, by: float = 0.05, seed: int = 0) -> nn.Module:
    """Move everything that the net trains by normal numbers of deviation `by`, as training would; return the net.

    What starts at zero makes every choice a no-op, and a comparison worth nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        if p.requires_grad:
            p.add_(by * torch.randn(p.shape, generator=generator).to(p))
    return net


@torch.no_grad()
def gap(first: nn.Module, second: nn.Module, inputs: Tensor) -> float:
    """Return the largest difference of two models' outputs, relative to the largest output of the second."""
    one, other = (getattr(output, "logits", output) for output in (first(inputs), second(inputs)))
    return ((one - other).abs().max() / other.abs().max()).item()
