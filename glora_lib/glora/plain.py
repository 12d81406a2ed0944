"""What stands in the way of adapting a model, and what adapting it leaves out: asked before anything is changed."""

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
    """Raise a ValueError for a layer that would not stay what it is if its weight were taken: one that computes its weight.

    So do weight norm, spectral norm and pruning by hooks. A layer whose `forward` was replaced is refused too.
    """
    for name, module in modules.items():
        if "weight" in vars(module):  # a plain tensor, not a parameter
            raise ValueError(
                f"layer {name!r} computes its weight, by weight norm or the like; make it a parameter before "
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


def as_names(names: str | Collection[str], model: nn.Module) -> tuple[str, ...]:
    """Return names as a tuple, a single one too; a ValueError says which of them no module of the model has."""
    names = (names,) if isinstance(names, str) else tuple(names)
    known = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for name in names:
        if not any(matches(other, (name,)) for other in known):
            raise ValueError(f"no module is called {name!r}; modules of this model: {', '.join(known[1:9])}, ...")
    return names


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
