"""What stands in the way of adapting a model, and what adapting it leaves out: asked before anything is changed."""

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from torch import nn

from glora_lib.glora.fusable import Fusable

MAPS = ("MultiheadAttention", "Conv1D", "Bilinear")  # beside classes derived from nn.Linear: maps of features, not adapted


class LeftOut(NamedTuple):
    """Modules of one class that stay as they are: how many, and their part of the model's parameters."""

    kind: str
    modules: int
    parameters: int
    share: float


def refuse_adapted(model: nn.Module) -> None:
    """Raise a ValueError for a model that something is adapted in already: by us, or by peft."""
    for name, module in model.named_modules():
        if isinstance(module, Fusable):
            raise ValueError(
                f"{name or 'the model'!r} is a {type(module).__name__} already; fuse the model before, or load it anew"
            )
        if any(parent.__name__ == "BaseTunerLayer" for parent in type(module).__mro__):
            raise ValueError(f"{name!r} is adapted by peft; `merge_and_unload` the model before, or load it anew")


def refuse_computed(modules: Mapping[str, nn.Module]) -> None:
    """Raise a ValueError for a layer that would not stay what it is if its weight were taken: one that computes it or the bias.

    So do weight norm, spectral norm and pruning by hooks. A layer whose `forward` was replaced is refused too.
    """
    for name, module in modules.items():
        for part in ("weight", "bias"):
            if part in vars(module):  # a plain tensor, not a parameter
                raise ValueError(
                    f"layer {name!r} computes its {part}, by weight norm or the like; make it a parameter before "
                    f"(torch.nn.utils.remove_weight_norm), or skip the layer"
                )
        if "forward" in vars(module):
            raise ValueError(f"layer {name!r} has a `forward` of its own on the instance, which would be lost; skip the layer")


def bias_apart(parent: nn.Module) -> bool:
    """Return whether a module keeps the biases of its queries and values apart, reading no bias of its layers (BEiT, EVA)."""
    return any(isinstance(parent._parameters.get(name), nn.Parameter) for name in ("q_bias", "v_bias"))


def matches(name: str, patterns: Collection[str]) -> bool:
    """Return whether a module's name is, or lies inside, a module that one of the patterns names: whole or a last part."""
    return any(f".{pattern}." in f".{name}." for pattern in patterns)


def check_rank(rank: int, layers: Mapping[str, nn.Module]) -> None:
    """Raise a ValueError for a rank above every dimension."""
    most = max(max(len(layer.weight), layer.weight[0].numel()) for layer in layers.values())
    if rank > most:
        raise ValueError(f"rank {rank} is above every dimension of the layers, the largest of which is {most}")


def check_ties(model: nn.Module, layers: Mapping[str, nn.Module], trained: Iterable[nn.Module]) -> None:
    """Raise a ValueError for a parameter that is to be trained and frozen at once, and for a tie that would be lost."""
    whole = {id(p) for module in trained for p in module.parameters()}
    adapted = {id(layer) for layer in layers.values()}
    others = {id(p): name for name, m in model.named_modules() if id(m) not in adapted for p in m._parameters.values()}
    for name, layer in layers.items():
        if any(id(p) in whole for p in layer.parameters()):
            raise ValueError(
                f"layer {name!r} shares a parameter with what is trained whole; skip the layer, or train it whole too"
            )
        lost = [others[id(p)] for p in layer.parameters() if id(p) in others]
        if lost and not isinstance(layer, nn.Linear):  # whose weight is taken in another shape
            raise ValueError(f"layer {name!r} shares a parameter with {lost[0]!r}, which is not adapted; skip the layer")


def plain_parameters(module: nn.Module) -> bool:
    """Whether a layer's weight is a parameter, and its bias one or none: parametrizations compute them from others."""
    return isinstance(module._parameters.get("weight"), nn.Parameter) and "bias" in module._parameters


def as_names(names: str | Collection[str], model: nn.Module) -> tuple[str, ...]:
    """Return names as a tuple, a single one too; a ValueError says which of them no module of the model has."""
    names = (names,) if isinstance(names, str) else tuple(names)
    known = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for name in names:
        if not name or not any(matches(other, (name,)) for other in known):
            raise ValueError(f"no module is called {name!r}; modules of this model: {', '.join(known[1:9])}, ...")
    return names


def warn_headless(model: nn.Module, stacklevel: int) -> None:
    """Warn that a model has no head to train whole; a language model's output layer is none and is not missed."""
    ask = getattr(model, "get_output_embeddings", None)
    try:
        answers = ask is not None and ask() is not None
    except NotImplementedError:
        answers = False
    if not answers:
        warnings.warn(
            f"{type(model).__name__} has no head that would be trained whole: name what takes its place (train=...), or "
            "say train=() if nothing does",
            stacklevel=stacklevel,
        )


def left_out(model: nn.Module, taken: Collection[int]) -> list[LeftOut]:
    """Return what else in the model has parameters of two or more dimensions, by class; `taken` are identities of modules."""
    total = sum(p.numel() for p in model.parameters()) or 1
    numbers: dict[str, list[int]] = {}
    passed: set[int] = set(taken)
    for module in model.modules():  # a module comes before those inside it
        if id(module) in passed:
            passed |= {id(other) for other in module.modules()}
            continue
        whole = type(module).__name__ in MAPS or isinstance(module, nn.Linear)  # parts of a layer that computes its weight
        parameters = list(module.parameters(recurse=whole))
        if any(p.ndim > 1 for p in parameters):
            numbers.setdefault(type(module).__name__, []).append(sum(p.numel() for p in parameters))
        if whole:
            passed |= {id(other) for other in module.modules()}
    return [LeftOut(kind, len(sizes), sum(sizes), sum(sizes) / total) for kind, sizes in numbers.items()]


def maps_left_out(model: nn.Module, left: Iterable[LeftOut]) -> list[LeftOut]:
    """Return those that map features to features, as linear layers do."""
    derived = {type(module).__name__ for module in model.modules() if isinstance(module, nn.Linear)} - {"Linear"}
    return [entry for entry in left if entry.kind in MAPS or entry.kind in derived]


def say(left: Iterable[LeftOut]) -> str:
    """Return entries in words."""
    return ", ".join(f"{entry.modules} {entry.kind} ({entry.share:.0%} of the parameters)" for entry in left)
