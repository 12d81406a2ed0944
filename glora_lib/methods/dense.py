"""A layer with a change of its weight that is written out in full: what every adapter of a weight comes to."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from glora_lib.glora.fusable import StandIn
from glora_lib.methods.vit import fused_layer


class DenseChange(StandIn):
    """A linear layer or a convolution with W0 + change and b0 + shift; these two are trained, the layer is not."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, change: Tensor, shift: Tensor | None = None):
        super().__init__(layer)
        if change.numel() != layer.weight.numel():
            raise ValueError(f"a change of shape {tuple(change.shape)} does not fit the weight {tuple(layer.weight.shape)}")
        self.layer = layer.requires_grad_(False)
        self.change = nn.Parameter(change.to(layer.weight).reshape(layer.weight.shape))
        self.shift = None if shift is None else nn.Parameter(shift.to(layer.weight).reshape(len(layer.weight)))

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Return the changed weight and bias."""
        bias = (
            self.layer.bias if self.shift is None else self.shift if self.layer.bias is None else self.layer.bias + self.shift
        )
        return self.layer.weight + self.change, bias

    def forward(self, input: Tensor) -> Tensor:
        self._felt()
        if isinstance(self.layer, nn.Linear):
            return F.linear(input, *self.effective())
        weight, bias = self.effective()
        return functional_call(self.layer, {"weight": weight, "bias": bias}, (input,))

    def fuse(self) -> nn.Module:
        """Return a plain layer with the same function."""
        return fused_layer(self, self.layer)
