"""What the methods ask of a timm ViT: its head, its blocks, layers in them by name, and copies of layers with other weights."""

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


class NotFusable(TypeError):
    """The method cannot become part of the backbone's weights; the message names it and says why."""


def freeze(model: nn.Module) -> nn.Module:
    """Freeze everything but the head of a timm model; return the model.

    Raises ValueError, and changes nothing, for a model without one head of its own: no timm model, one made with
    `num_classes=0`, or a distilled one, which has two.
    """
    found = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(found, nn.Module) or not list(found.parameters()):
        what = "two heads" if isinstance(found, tuple) else "no head"
        raise ValueError(
            f"{type(model).__name__} has {what}; the methods train one, which `get_classifier` of a timm model returns"
        )
    model.requires_grad_(False)
    found.requires_grad_(True)
    return model


def blocks(model: nn.Module) -> nn.Sequential:
    """Return the transformer blocks of a timm ViT; a model without any is a ValueError."""
    found = getattr(model, "blocks", None)
    if not isinstance(found, nn.Sequential) or not len(found):
        parts = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"{type(model).__name__} has no `blocks`, as a timm ViT has; it has: {parts or 'no parts'}")
    return found


def layers(model: nn.Module, names: Collection[str] = LINEARS, kind: type[nn.Module] = nn.Linear) -> dict[str, nn.Module]:
    """Return name in the model -> module, for each block and each of `names`, in that order.

    A name that a block lacks, and a module that is no `kind`, is a ValueError that says what is there. Only plain linear layers
    count as linear: a layer that a method has replaced is not adapted again.
    """
    found = {}
    for index, block in enumerate(blocks(model)):
        for name in names:
            try:
                module = block.get_submodule(name)
            except AttributeError:
                there = ", ".join(part for part, _ in block.named_modules() if part)
                message = f"{type(model).__name__} has no layer 'blocks.{index}.{name}'; the block has: {there or 'nothing'}"
                raise ValueError(message) from None
            if not isinstance(module, kind) or (kind is nn.Linear and type(module) is not nn.Linear):
                raise ValueError(f"'blocks.{index}.{name}' is a {type(module).__name__}, the method needs {kind.__name__}")
            found[f"blocks.{index}.{name}"] = module
    return found


def check_rank(rank: int, found: dict[str, nn.Module], what: str = "rank") -> None:
    """Raise a ValueError for a rank (or `what` it is) below 1 or above the input width of one of the linear layers."""
    for name, layer in found.items():
        if not 1 <= rank <= layer.in_features:
            raise ValueError(f"{what} {rank} does not suit layer {name!r} of width {layer.in_features}; valid: 1 to that width")


@torch.no_grad()
def with_weights(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return a copy of a layer, its class kept, with another weight and bias. A layer without bias gains one."""
    plain = copy.deepcopy(layer)
    plain.weight = nn.Parameter(weight.clone())
    if bias is not None:
        plain.bias = nn.Parameter(bias.clone())
    return plain
