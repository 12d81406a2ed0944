"""GLoRA layers put into a model, in place of its own."""

import warnings
from collections.abc import Collection

from torch import nn

from glora_lib.glora.conv import GLoRAConv2d
from glora_lib.glora.layer import GLoRALinear, check_whole
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.norm import GLoRANorm
from glora_lib.glora.plain import (
    as_names,
    bias_apart,
    check_rank,
    check_ties,
    left_out,
    maps_left_out,
    matches,
    refuse_adapted,
    refuse_computed,
    say,
    warn_headless,
)
from glora_lib.training.head import head_of

DEFAULT_RANK = 8
LAYERS = {layer.kind: layer for layer in (GLoRALinear, GLoRAConv2d, GLoRANorm)}


def adapt(
    model: nn.Module,
    rank: int = DEFAULT_RANK,
    *,
    layers: str | Collection[str] = ("linear",),
    skip: str | Collection[str] | None = None,
    only: str | Collection[str] | None = None,
    train: str | Collection[str] | None = None,
    scale_broadcast: bool = False,
    gain_bias: bool = True,
) -> AdaptedModel:
    """Freeze `model`, put a GLoRA layer in place of every linear layer, and return it, all choices none.

    What else maps features to features stays as it is: attention of `nn.MultiheadAttention`, transformers' Conv1D, classes
    derived from `nn.Linear`. `AdaptedModel.left_out` lists it, and a UserWarning says so.

    Args:
        model: any module; it is changed in place.
        rank: the largest LoRA rank that can be chosen.
        layers: the kinds that are adapted, wherever they are: "linear" (exactly `nn.Linear`), "conv" (`nn.Conv2d`) and "norm"
            (LayerNorm, BatchNorm, GroupNorm, where they have a scale).
        skip: names of modules whose linear layers stay as they are, whole ("blocks.0") or a last part ("head").
            What is trained whole is skipped anyway: it needs no support tensors.
        only: whole names of the layers that are adapted, and no others.
        train: names of modules that are trained whole, in the same form; by default the head, by `training.head.head_of`. A
            UserWarning says where there is none; () is for training nothing whole.
        scale_broadcast, gain_bias: see `GLoRALinear`. Without `gain_bias` a fused model has the parameters of the model before.

    Raises ValueError, before anything is changed, for a kind that cannot be adapted, for a model without a layer of the kinds,
    for a name that no module has, for a model that is adapted already, and for a layer that computes its weight.
    """
    kinds = (layers,) if isinstance(layers, str) else tuple(layers)
    if unknown := [kind for kind in kinds if kind not in LAYERS]:
        raise ValueError(f"layers of kind {unknown[0]!r} cannot be adapted; valid: {', '.join(LAYERS)}")
    check_whole(rank, "rank")
    refuse_adapted(model)
    options = {"rank": rank, "scale_broadcast": scale_broadcast}
    options |= {} if kinds == ("linear",) else {"layers": list(kinds)}
    options |= {} if gain_bias else {"gain_bias": False}
    skip = () if skip is None else as_names(skip, model)
    options |= {"skip": list(skip)} if skip else {}
    modules = dict(model.named_modules(remove_duplicate=False))
    if only is not None:
        only = (only,) if isinstance(only, str) else tuple(only)
        if unknown := [name for name in only if name not in modules]:
            raise ValueError(f"no module is called {unknown[0]!r}; modules of this model: {', '.join([*modules][1:9])}, ...")
        options["only"] = list(only)
    if train is None:
        trained = [module for part in head_of(model).values() for module in part.modules()]
        if not trained:
            warn_headless(model, stacklevel=3)
    else:
        train = as_names(train, model)
        options["train"] = list(train)
        trained = [module for name, module in modules.items() if name and matches(name, train)]
    beside = {id(module) for module in trained}
    skipped = {id(module) for name, module in modules.items() if name and matches(name, skip)}
    taken = {name: module for name, module in modules.items() if name and id(module) not in beside | skipped}
    if only is not None:
        taken = {name: module for name, module in taken.items() if name in only}
    found = {name: (module, LAYERS[kind]) for name, module in taken.items() for kind in kinds if LAYERS[kind].suits(module)}
    refuse_computed({name: module for name, module in taken.items() if isinstance(module, nn.Linear | nn.Conv2d)})
    left = left_out(model, {id(module) for module, _ in found.values()} | beside | skipped)
    if not found:
        there = f"; there are: {say(left)}" if left else ""
        raise ValueError(f"no {' or '.join(kinds)} layer to adapt inside this {type(model).__name__}, skipping {skip}{there}")
    plain = {name: module for name, (module, _) in found.items()}
    if rank > DEFAULT_RANK:  # which toys may have too
        check_rank(rank, plain)
    check_ties(model, plain, trained)

    made: dict[int, GLoRALinear] = {}  # by identity of the plain layer, since one may stand in several places
    names, tied = [], {}
    for name, (module, layer) in found.items():
        if id(module) not in made:
            apart = bias_apart(modules[name.rpartition(".")[0]])
            made[id(module)] = layer(module, rank, scale_broadcast, gain_bias and not apart)
            for own, part in (("W0", module.weight), ("b0", module.bias)):  # convolutions that share one go on sharing it
                if part is not None:
                    setattr(made[id(module)], own, tied.setdefault((id(part), own), getattr(made[id(module)], own)))
            names.append(name)
    if maps := maps_left_out(model, left):
        warnings.warn(f"left out of {type(model).__name__}, since their class is not adapted: {say(maps)}", stacklevel=2)
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    for name, (module, _) in found.items():
        model.set_submodule(name, made[id(module)])
    return AdaptedModel(model, names, left, options)
