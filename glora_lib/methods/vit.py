"""What the methods ask of a timm ViT: its head, its blocks, layers in them by name, and copies of layers with other weights."""

import copy
from collections.abc import Collection, Mapping

import torch
from torch import nn

from glora_lib.glora.fusable import StandIn, copy_hooks
from glora_lib.glora.layer import check_whole
from glora_lib.glora.plain import bias_apart, refuse_adapted, refuse_computed
from glora_lib.training.head import head_of

LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def freeze(model: nn.Module) -> nn.Module:
    """Freeze everything but the head of a model, both heads where it has two; return the model.

    Raises ValueError, and changes nothing, for a model without a head, such as a timm model with `num_classes=0`, and for one
    that is adapted already.
    """
    refuse_adapted(model)
    heads = head_of(model)
    if not heads:
        raise ValueError(
            f"{type(model).__name__} has no head; the methods train one, which `get_classifier` of a timm model returns"
        )
    model.requires_grad_(False)
    for head in heads.values():
        head.requires_grad_(True)
    return model


def blocks(model: nn.Module) -> nn.Sequential:
    """Return the transformer blocks of a timm ViT; a model without any is a ValueError."""
    found = getattr(model, "blocks", None)
    if isinstance(found, nn.ModuleList):
        raise ValueError(
            f"the `blocks` of {type(model).__name__} are a ModuleList, which it calls one by one in a way of its own; the "
            "method needs nn.Sequential, as timm's VisionTransformer has it"
        )
    if not isinstance(found, nn.Sequential) or not len(found):
        refuse_adapted(model)
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
                refuse_adapted(model)
                there = ", ".join(part for part, _ in block.named_modules() if part)
                message = f"{type(model).__name__} has no layer 'blocks.{index}.{name}'; the block has: {there or 'nothing'}"
                raise ValueError(message) from None
            if not isinstance(module, kind) or (kind is nn.Linear and type(module) is not nn.Linear):
                raise ValueError(f"'blocks.{index}.{name}' is a {type(module).__name__}, the method needs {kind.__name__}")
            found[f"blocks.{index}.{name}"] = module
    refuse_computed(found)
    return found


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return name -> layer of every plain linear layer but the head's; ValueErrors as for `layers`."""
    heads = {id(module) for head in head_of(model).values() for module in head.modules()}
    found = {n: m for n, m in model.named_modules() if type(m) is nn.Linear and id(m) not in heads}
    refuse_computed(found)
    return found


def replace(model: nn.Module, made: Mapping[int, nn.Module]) -> None:
    """Put modules into the places of those with these identities, of one that stands in several places into all of them."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in made:
            model.set_submodule(name, made[id(module)])


def refuse_deaf(model: nn.Module, found: Mapping[str, nn.Module], what: str) -> None:
    """Raise a ValueError for a layer whose bias the model does not read, where a method would add one: it had no effect."""
    for name in found:
        if found[name].bias is None and bias_apart(model.get_submodule(name.rpartition(".")[0])):
            raise ValueError(
                f"{type(model).__name__} keeps the bias of {name!r} apart and reads none there, so that {what} fails"
            )


def check_rank(rank: int, found: dict[str, nn.Module], what: str = "rank") -> None:
    """Raise a ValueError for a rank (or `what` it is) below 1 or above the input width of one of the linear layers."""
    check_whole(rank, what, least=None)
    for name, layer in found.items():
        if not 1 <= rank <= layer.in_features:
            raise ValueError(f"{what} {rank} does not suit layer {name!r} of width {layer.in_features}; valid: 1 to that width")


@torch.no_grad()
def fused_layer(adapted: StandIn, layer: nn.Module) -> nn.Module:
    """Return a copy of the `layer` inside `adapted`, its class kept, with the effective weight and bias, and the hooks.

    A layer without bias gains one where the method has one.
    """
    weight, bias = adapted.effective()
    plain = copy.deepcopy(layer)
    plain.weight = nn.Parameter(weight.clone())
    if bias is not None:
        plain.bias = nn.Parameter(bias.clone())
    copy_hooks(adapted, plain)
    return plain
