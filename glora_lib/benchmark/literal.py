"""The GLoRA layer as the formula is written, which is how the authors' code computes it: the reference of every comparison.

Every support tensor is an array, zeros where its form is none; the effective weight is formed at every call and differentiated
by autograd. The authors' layer.py does the same; this is not their code.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.glora.adapt import adapt
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.model import AdaptedModel


class LiteralLinear(GLoRALinear):
    """The same parameters and choices, without any shortcut."""

    def forward(self, x: Float[Tensor, "*batch d1"]) -> Float[Tensor, "*batch d2"]:
        W0 = self.W0
        A, B, C, D, E = (self._tensor(tensor) for tensor in "ABCDE")
        A, B = (torch.zeros_like(W0) if part is None else part for part in (A, B))
        C, D, E = (W0.new_zeros(shape) if part is None else part for part, shape in ((C, (len(W0.T), 1)), (D, 1), (E, 1)))
        weight = W0 + W0 * A + B
        b0 = W0.new_zeros(len(W0)) if self.b0 is None else self.b0
        return F.linear(x, weight, b0 + b0 * D + E + (W0 @ C).squeeze(-1))


class LiteralModel(AdaptedModel):
    """The same model, with every block on every token."""

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


def literal(backbone: nn.Module, rank: int, scale_broadcast: bool = False) -> AdaptedModel:
    """Return the backbone with literal layers."""
    net = adapt(backbone, rank=rank, scale_broadcast=scale_broadcast)
    for name in net.layer_names:
        net.layer(name).__class__ = LiteralLinear
    net.__class__ = LiteralModel
    return net
