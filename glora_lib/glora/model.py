"""A whole model with GLoRA layers: choose a configuration, keep it formed, take the layers out again fused."""

import copy
import warnings
from collections.abc import Collection
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from glora_lib.glora.class_token import class_token_alone
from glora_lib.glora.fusable import Fusable, StandIn
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.plain import (
    LeftOut,
    say,
)
from glora_lib.glora.space import Choice, Config, check_names
from glora_lib.training.wrappers import unwrapped


class AdaptedModel(Fusable):
    """A model with GLoRA layers, called like the model. Layers are keyed by their name in that model.

    Attributes:
        model: the model itself, with `GLoRALinear` in place of the adapted layers.
        layer_names: the adapted layers, in the model's order.
        shapes: layer name -> (outputs d2, inputs d1), of a convolution's unfolded kernel, (channels, 1) of a normalisation.
        kinds: layer name -> "linear", "conv", "norm", or "weight" and "scale" where there is no bias; for `Space`.
        rank: the largest LoRA rank that can be chosen.
        left_out: what else has parameters of two or more dimensions and stays as it is, by class.
        options: the keyword arguments with which `adapt` makes the same of the same model.
    """

    def __init__(
        self, model: nn.Module, layer_names: Collection[str], left_out: Collection[LeftOut] = (), options: dict | None = None
    ):
        super().__init__()
        self.model = model
        self.layer_names = tuple(layer_names)
        layers = [model.get_submodule(name) for name in self.layer_names]
        self.shapes = {name: tuple(layer.W0.shape) for name, layer in zip(self.layer_names, layers, strict=True)}
        self.kinds = {name: layer.kind for name, layer in zip(self.layer_names, layers, strict=True)}
        self.rank = max(layer.rank for layer in layers)
        self.left_out, self.options = list(left_out), options or {}

    def forward(self, *args, **kwargs):
        with class_token_alone(self.model) if self.training else nullcontext():  # evaluation costs what the model's costs
            output = self.model(*args, **kwargs)
        if not torch.compiler.is_compiling():
            self._refuse_deaf()
        return output

    def _refuse_deaf(self) -> None:
        """Raise a ValueError where a choice has no effect: the model reads a layer's weight, and never its bias."""
        for name in self.layer_names:
            layer = self.model.get_submodule(name)
            if layer.deaf and any(form != "none" for form in layer.choice.forms[2:]):
                raise ValueError(
                    f"layer {name!r} is not called: the model reads its weight, but not its bias, so that C, D and E have no "
                    "effect there; choose none for them, or skip the layer"
                )

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            inside = self._modules.get("model")
            if inside is None or not hasattr(inside, name):
                raise
            raise AttributeError(f"{error}; the model inside has it: net.model.{name}") from None

    def extra_repr(self) -> str:
        left = f"; left out: {say(self.left_out)}" if self.left_out else ""
        return f"{len(self.layer_names)} layers, rank {self.rank}{left}"

    def fuse(self) -> nn.Module:
        """Return the plain model; see `fuse`."""
        return fuse(self)

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

    Works for every method; only modules of ours are fused, whatever other modules call `fuse`. `net` stays as it is. Weights
    that were tied stay so where nothing changed them, and a UserWarning names a tie that is gone. For GLoRA the subnet in use
    is fused: the result has the classes of modules, parameter names and cost of the model before `adapt`.

    Raises NotFusable for methods that cannot be fused, and ValueError for a result that is not finite.
    """
    net = unwrapped(net)
    fused, memo, owners = {}, {}, {}
    inside = "model." if isinstance(net, AdaptedModel) else ""  # what names begin with here, and in the plain model not
    modules = {name.removeprefix(inside): module for name, module in net.named_modules()}
    for name, module in modules.items():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), []).append(name)
    for name, module in modules.items():
        if not isinstance(module, Fusable) or isinstance(module, AdaptedModel):
            continue
        fused[id(module)] = module.fuse()
        if isinstance(module, StandIn):
            _keep_ties(name, module, fused[id(module)], owners, memo)
    memo |= fused  # a layer that is replaced need not be copied first; the same layer in two places stays one
    for module in net.modules():
        if isinstance(module, AdaptedModel):
            memo[id(module)] = copy.deepcopy(unwrapped(module.model), memo)
    plain = copy.deepcopy(net, memo).requires_grad_(True)
    for name, tensor in (*plain.named_parameters(), *plain.named_buffers()):
        if not _sound(tensor):
            raise ValueError(f"{name} of the fused model has NaN or infinity; train again with a lower rate")
    return plain


def _sound(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no NaN and no infinity; in buffers the negative one may be a mask of some attention."""
    if tensor.is_meta or not tensor.is_floating_point() or tensor.sum().isfinite():  # the sum alone is the faster question
        return True
    finite = tensor.isfinite() if isinstance(tensor, nn.Parameter) else tensor.isfinite() | (tensor == -torch.inf)
    return bool(finite.all())


def _keep_ties(name: str, layer: StandIn, plain: nn.Module, owners: dict[int, list[str]], memo: dict) -> None:
    """Give the fused layer the parameters that it shares with others where they are unchanged; say where a tie is gone."""
    frozen = [(own.rpartition(".")[2], p) for own, p in layer.named_parameters() if not p.requires_grad]
    for part, names in (("weight", ("W0", "weight")), ("bias", ("b0", "bias"))):
        fused = getattr(plain, part, None)
        for shared in [p for own, p in frozen if own in names and fused is not None and p.numel() == fused.numel()]:
            others = [other for other in owners[id(shared)] if not f"{other}.".startswith(f"{name}.")]
            if others and torch.equal(shared.view_as(fused), fused):
                memo.setdefault(id(shared), fused)
                setattr(plain, part, memo[id(shared)])
            elif others:
                where = ", ".join(others)
                warnings.warn(f"{name}.{part} of the fused model is its own, no longer that of {where}", stacklevel=3)
