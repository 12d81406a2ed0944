"""What a method puts into a model: modules of ours, which `fuse` takes out again, and layers that stand in for torch's."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from glora_lib.training.wrappers import HOOKS


class NotFusable(TypeError):
    """The method cannot become part of the backbone's weights; the message names it and says why."""


class Fusable(nn.Module):
    """A module of ours in the place of one of the model's. Other modules may have a method `fuse` too, of another meaning."""

    def fuse(self) -> nn.Module:
        """Return an ordinary module with the same function, this one staying as it is, or raise NotFusable."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is fused")


class StandIn(Fusable):
    """A drop-in for a linear layer, a convolution or a normalisation: with its attributes, and with its hooks.

    Some models read a layer's weight instead of calling the layer; what they read is the effective one, dropout left out.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        for name, value in vars(layer).items():
            if not name.startswith("_") and name != "training":
                setattr(self, name, value)
        self.train(layer.training)
        _move_hooks(layer, self)
        self._weight_was_read = self._bias_is_felt = False

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the bias of the layer with the same function; the bias is None where there is none."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The effective weight, for code that reads a layer's weight instead of calling the layer."""
        if not torch.compiler.is_compiling():
            self._weight_was_read = True
        return self.effective()[0]

    @property
    def bias(self) -> Tensor | None:
        """The effective bias, for the same."""
        self._felt()
        return self.effective()[1]

    @property
    def deaf(self) -> bool:
        """Whether the weight has been read, but the layer never called and its bias never read: then the bias has no effect."""
        return self._weight_was_read and not self._bias_is_felt

    def _felt(self) -> None:
        if not self._bias_is_felt and not torch.compiler.is_compiling():
            self._bias_is_felt = True


def _move_hooks(source: nn.Module, target: nn.Module) -> None:
    """Hang the hooks of `source` on `target`; the handles that remove them go on working."""
    for name in HOOKS:
        hooks = source.__dict__.get(name)
        if hooks:
            target.__dict__[name] = hooks
            source.__dict__[name] = OrderedDict()
    target._is_full_backward_hook = source._is_full_backward_hook


def copy_hooks(source: nn.Module, target: nn.Module) -> None:
    """Hang the hooks of `source` on `target` as well."""
    for name in HOOKS:
        target.__dict__[name] = OrderedDict(source.__dict__[name])
    target._is_full_backward_hook = source._is_full_backward_hook
