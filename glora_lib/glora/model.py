"""GLoRA on a whole model: put the layers in, choose a configuration, take them out again fused."""

import copy
from collections.abc import Collection
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from glora_lib.glora.class_token import class_token_alone
from glora_lib.glora.conv import GLoRAConv2d
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.norm import GLoRANorm
from glora_lib.glora.space import Choice, Config, check_names

LAYERS = {layer.kind: layer for layer in (GLoRALinear, GLoRAConv2d, GLoRANorm)}


class AdaptedModel(nn.Module):
    """A model with GLoRA layers, called like the model. Layers are keyed by their name in that model.

    Attributes:
        model: the model itself, with `GLoRALinear` in place of the adapted layers.
        layer_names: the adapted layers, in the model's order.
        shapes: layer name -> (outputs d2, inputs d1), of a convolution's unfolded kernel, (channels, 1) of a normalisation.
        kinds: layer name -> "linear", "conv" or "norm", for `Space`.
        rank: the largest LoRA rank that can be chosen.
    """

    def __init__(self, model: nn.Module, layer_names: Collection[str]):
        super().__init__()
        self.model = model
        self.layer_names = tuple(layer_names)
        layers = [model.get_submodule(name) for name in self.layer_names]
        self.shapes = {name: tuple(layer.W0.shape) for name, layer in zip(self.layer_names, layers, strict=True)}
        self.kinds = {name: layer.kind for name, layer in zip(self.layer_names, layers, strict=True)}
        self.rank = max(layer.rank for layer in layers)

    def forward(self, *args, **kwargs):
        with class_token_alone(self.model) if self.training else nullcontext():  # evaluation costs what the model's costs
            return self.model(*args, **kwargs)

    def layer(self, name: str) -> GLoRALinear:
        """Return the adapted layer of that name."""
        if name not in self.shapes:
            raise KeyError(f"no adapted layer {name!r}; there are {len(self.shapes)}, such as {self.layer_names[:2]}")
        return self.model.get_submodule(name)

    def use(self, config: Config) -> "AdaptedModel":
        """Choose a subnet: one `Choice` for every layer. Returns the model, so that calls chain.

        A wrong configuration is a ValueError and leaves the former one in place.
        """
        check_names(config, self.layer_names)
        before = self.config
        try:
            for name, choice in config.items():
                self.layer(name).use(choice)
        except (ValueError, TypeError, AttributeError) as error:  # the last two: what stands there is no Choice
            self.use(before)
            raise ValueError(f"layer {name!r}: {error}") from error
        return self

    @property
    def config(self) -> dict[str, Choice]:
        """The configuration in use."""
        return {name: self.layer(name).choice for name in self.layer_names}


def adapt(
    model: nn.Module,
    rank: int = 8,
    *,
    layers: Collection[str] = ("linear",),
    skip: Collection[str] | None = None,
    train: Collection[str] = ("head",),
    scale_broadcast: bool = False,
) -> AdaptedModel:
    """Freeze `model`, put a GLoRA layer in place of every linear layer, and return it, all choices none.

    Args:
        model: any module; it is changed in place.
        rank: the largest LoRA rank that can be chosen.
        layers: the kinds that are adapted, wherever they are: "linear" (exactly `nn.Linear`), "conv" (`nn.Conv2d`) and "norm"
            (LayerNorm, BatchNorm, GroupNorm, where they have a scale).
        skip: names of modules whose linear layers stay as they are, whole ("blocks.0") or a last part ("head").
            The default is `train`: a layer that is trained whole needs no support tensors.
        train: names of modules that are trained whole, in the same form.
        scale_broadcast: see `GLoRALinear`.

    Raises ValueError for a kind that cannot be adapted, for a model without a layer of the kinds, and for a name in `skip`
    that no module has.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for name in skip or ():
        if not any(_matches(other, (name,)) for other in names):
            raise ValueError(f"no module is called {name!r}; modules of this model: {', '.join(names[1:9])}, ...")
    skip = train if skip is None else (*skip, *train)
    kinds = (layers,) if isinstance(layers, str) else tuple(layers)
    if unknown := [kind for kind in kinds if kind not in LAYERS]:
        raise ValueError(f"layers of kind {unknown[0]!r} cannot be adapted; valid: {', '.join(LAYERS)}")
    found = {
        name: (module, LAYERS[kind])
        for name, module in model.named_modules(remove_duplicate=False)
        if name and not _matches(name, skip)
        for kind in kinds
        if LAYERS[kind].suits(module)
    }
    if not found:
        raise ValueError(f"no {' or '.join(kinds)} layer to adapt inside this {type(model).__name__}, skipping {tuple(skip)}")

    model.requires_grad_(False)
    for name, module in model.named_modules():
        if _matches(name, train):
            module.requires_grad_(True)
    made: dict[int, GLoRALinear] = {}  # by identity of the plain layer, since one may stand in several places
    layer_names = []
    for name, (module, layer) in found.items():
        if id(module) not in made:
            made[id(module)] = layer(module, rank, scale_broadcast)
            layer_names.append(name)
        _replace(model, name, made[id(module)])
    return AdaptedModel(model, layer_names)


@contextmanager
def formed(net: AdaptedModel):
    """While it lasts, every layer keeps the effective weight of the subnet in use instead of forming it at each call.

    For several batches without gradients, such as those of a score; `use` has no effect until it ends.
    """
    layers = [net.layer(name) for name in net.layer_names]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.formed = layer.effective()
        yield
    finally:
        for layer in layers:
            layer.formed = None


@torch.no_grad()
def fuse(net: nn.Module) -> nn.Module:
    """Return a copy of the plain model in which every adapted layer is an ordinary one with the same function.

    Works for every module that has a `fuse` method; `net` stays as it is. For GLoRA the subnet in use is fused: the result has
    the classes of modules, parameter names and cost of the model before `adapt`.
    """
    # a layer that is replaced need not be copied first; the same layer in two places stays one
    fused = {id(module): module.fuse() for module in net.modules() if hasattr(module, "fuse")}
    plain = copy.deepcopy(net.model if isinstance(net, AdaptedModel) else net, memo=dict(fused))
    return plain.requires_grad_(True)


def _matches(name: str, patterns: Collection[str]) -> bool:
    """Whether a module's name is, or lies inside, a module that one of the patterns names."""
    return any(f".{pattern}." in f".{name}." for pattern in patterns)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, attribute, module)
