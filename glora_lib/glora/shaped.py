"""GLoRA on a layer whose weight can be read as a matrix: the base of convolutions (`conv`) and normalisations (`norm`)."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from glora_lib.glora.layer import GLoRALinear


class GLoRAShaped(GLoRALinear):
    """A layer that is called with GLoRA's weight and bias in place of its own.

    The equations, the storage and `use` are those of `GLoRALinear` on the weight seen as a matrix (d2, d1), which is `W0`.

    Args:
        layer: the pretrained layer; its weight and bias are shared, not copied, and frozen. A class derived from torch's is
            taken as it is: it must read `weight` and `bias` when it is called.
        d2: the number of the matrix's rows, and of the bias's entries.
        rank, scale_broadcast, gain_bias: as for `GLoRALinear`.
    """

    def __init__(self, layer: nn.Module, d2: int, rank: int, scale_broadcast: bool = False, gain_bias: bool = True):
        weight, bias = layer.weight, layer.bias
        matrix = nn.utils.skip_init(nn.Linear, weight.numel() // d2, d2, bias=False, device="meta")
        matrix.weight = nn.Parameter(weight.detach().reshape(d2, -1))
        matrix.bias = None if bias is None else nn.Parameter(bias.detach().reshape(d2))
        super().__init__(matrix, rank, scale_broadcast, gain_bias)
        for name, value in vars(layer).items():  # beside the matrix's: a kernel's size, a number of groups, an epsilon
            if not name.startswith("_") and name != "training":
                setattr(self, name, value)
        self.weight_shape, self.bias_shape = weight.shape, (d2,) if bias is None else bias.shape
        self.plain = copy.copy(layer)  # without weight and bias: all else that calling it needs, such as running statistics
        self.plain._parameters = layer._parameters | {"weight": None, "bias": None}
        self.plain.requires_grad_(False)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        self._felt()
        W, b = self.formed or self.effective()
        own = {"weight": W.view(self.weight_shape), "bias": None if b is None else b.view(self.bias_shape)}
        return functional_call(self.plain, own, (input,))

    def __getattr__(self, name: str):
        plain = self.__dict__.get("_modules", {}).get("plain")
        if plain is not None and name in plain._buffers:  # running statistics
            return plain._buffers[name]
        return super().__getattr__(name)

    @property
    def weight(self) -> Tensor:
        """The effective weight, in the layer's own shape."""
        return super().weight.view(self.weight_shape)

    @property
    def bias(self) -> Tensor | None:
        """The effective bias, in the layer's own shape."""
        b = super().bias
        return None if b is None else b.view(self.bias_shape)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Return a layer of the same class that computes the chosen subnet; one without bias gains one if C or E is in use."""
        W, b = self.effective()
        fused = copy.deepcopy(self.plain)  # in its mode: frozen statistics stay so
        fused.weight = nn.Parameter(W.view(self.weight_shape).clone())
        fused.bias = None if b is None else nn.Parameter(b.view(self.bias_shape).clone())
        return fused
