"""RepAdapter (Luo et al., 2023): a bottleneck without activation in front of qkv and fc1, which fuses into them.

x -> x + scale * (Wu (Wd x + bd) + bu)        Wd (h, d), Wu (d, h) block diagonal: a grouped convolution of width 1
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.glora.fusable import StandIn
from glora_lib.glora.layer import check_whole
from glora_lib.methods.vit import check_rank, freeze, fused_layer, layers, refuse_deaf


def repadapter(
    model: nn.Module, width: int = 8, groups: int = 2, scale: float = 1.0, bias: bool = True, dropout: float = 0.1
) -> nn.Module:
    """Return the model with RepAdapter in front of qkv and fc1: 239,808 parameters on ViT-B, 221,184 without biases.

    Wd starts as Xavier's, all else at zero. The paper takes the scale from 0.1 to 10, by task.
    Raises ValueError for groups that do not divide the bottleneck and the layers' width, and for a bottleneck wider than these.
    """
    found = layers(model, ("attn.qkv", "mlp.fc1"))
    check_rank(width, found, "bottleneck width")
    check_whole(groups, "groups", least=None)
    if bias:
        refuse_deaf(model, found, "RepAdapter with biases")
    for name, layer in found.items():
        if groups < 1 or width % groups or layer.in_features % groups:
            raise ValueError(
                f"{groups} groups do not divide the bottleneck {width} and the {layer.in_features} inputs of {name!r}"
            )
    freeze(model)
    for name, layer in found.items():
        model.set_submodule(name, RepAdaptedLinear(layer, width, groups, scale, bias, dropout))
    return model


class RepAdaptedLinear(StandIn):
    """A linear layer whose input passes the bottleneck above first."""

    def __init__(self, linear: nn.Linear, width: int, groups: int, scale: float, bias: bool, dropout: float):
        super().__init__(linear)
        self.linear, self.groups, self.scale = linear, groups, scale
        weight, d = linear.weight, linear.in_features
        self.down = nn.Parameter(nn.init.xavier_uniform_(weight.detach().new_empty(width, d)))
        self.up = nn.Parameter(weight.new_zeros(d, width // groups))  # outputs of group g read the g-th part of the bottleneck
        self.down_bias = nn.Parameter(weight.new_zeros(width)) if bias else None
        self.up_bias = nn.Parameter(weight.new_zeros(d)) if bias else None
        self.dropout = nn.Dropout(dropout)

    def dense_up(self) -> Float[Tensor, "d h"]:
        """Return Wu written out: a block on the diagonal for each group."""
        return torch.block_diag(*self.up.chunk(self.groups))

    def forward(self, input: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d2"]:
        self._felt()
        hidden = self.dropout(F.linear(input, self.down, self.down_bias))
        return self.linear(input + self.scale * F.linear(hidden, self.dense_up(), self.up_bias))

    def effective(self) -> tuple[Float[Tensor, "d2 d"], Float[Tensor, " d2"] | None]:
        """Return the changed weight and bias. A layer without bias gains one if the adapter has biases."""
        W, b, up = self.linear.weight, self.linear.bias, self.dense_up()
        weight = W + self.scale * W @ up @ self.down
        if self.up_bias is not None:
            shift = self.scale * W @ (up @ self.down_bias + self.up_bias)
            b = shift if b is None else b + shift
        return weight, b

    def fuse(self) -> nn.Module:
        """Return a plain linear layer with the same function."""
        return fused_layer(self, self.linear)
