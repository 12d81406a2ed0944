"""LoRA (Hu et al., 2021), W = W0 + scale * up @ down: in every linear layer, in the fused qkv, in queries and values alone,
or in every convolution.

Each is a point of GLoRA's space, where only B is chosen. Initialised as by its authors and as in the code of NOAH and of
PETL-ViT: `down` as Kaiming's, `up` at zero, dropout of 0.1 on the branch's input.
(GLoRA's B starts as Xavier's, without dropout.)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.methods.locon import LoConv2d
from glora_lib.methods.vit import check_rank, freeze, layers, with_weights

PLACEMENTS = ("all", "qkv", "qv", "conv")


def lora(model: nn.Module, rank: int = 8, placement: str = "all", scale: float = 1.0, dropout: float = 0.1) -> nn.Module:
    """Return the model with LoRA in its linear layers or convolutions; only the factors and the head are trained.

    Args:
        rank: at most the width of each adapted layer's input, else ValueError.
        placement: "all" linear layers but the head's; "qkv", one `down` shared by queries, keys and values, as in the code of
            NOAH, from which the papers take this row; "qv", factors of their own for queries and for values, as in LoRA's
            paper. For rank 8 these two have 294,912 parameters each on ViT-B, but are different models. "conv", every
            convolution, of any rank from 1, without dropout: see `LoConv2d`.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement {placement!r} is not known; valid: {', '.join(PLACEMENTS)}")
    if placement == "conv":
        return _in_convolutions(model, rank, scale)
    if placement == "all":
        found = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}
        found = {name: layer for name, layer in found.items() if "head" not in name.split(".")}
    else:
        found = layers(model, ("attn.qkv",))
    if not found:
        raise ValueError(f"no linear layer to adapt inside this {type(model).__name__} but the head's")
    check_rank(rank, found)
    made = {name: LoRALinear(layer, rank, scale, dropout, apart=placement == "qv") for name, layer in found.items()}
    freeze(model)
    for name, layer in made.items():
        model.set_submodule(name, layer)
    return model


def _in_convolutions(model: nn.Module, rank: int, scale: float) -> nn.Module:
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    if not found:
        raise ValueError(f"no convolution to adapt inside this {type(model).__name__}")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, not {rank}")
    freeze(model)
    for name, layer in found.items():
        model.set_submodule(name, LoConv2d(layer, rank, scale))
    return model


class LoRALinear(nn.Module):
    """A linear layer with LoRA; `apart`: a fused qkv, whose queries and values have factors of their own, and keys none."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float = 1.0, dropout: float = 0.1, apart: bool = False):
        super().__init__()
        weight, (d2, d1) = linear.weight, linear.weight.shape
        if apart and d2 % 3:
            raise ValueError(f"{d2} outputs are no fused queries, keys and values of equal width")
        self.linear, self.scale, self.apart = linear, scale, apart
        pairs, rows = (2, d2 // 3) if apart else (1, d2)
        self.down = nn.Parameter(weight.new_empty(pairs, rank, d1).uniform_(-(d1**-0.5), d1**-0.5))
        self.up = nn.Parameter(weight.new_zeros(pairs, rows, rank))
        self.dropout = nn.Dropout(dropout)
        self.used = rank  # a supernet uses less

    def factors(self) -> tuple[Float[Tensor, "d2 r"], Float[Tensor, "r d1"]]:
        """Return `up` and `down` as two matrices whose product is the change of the weight, before the scale."""
        down, up = self.down[:, : self.used].flatten(0, 1), self.up[..., : self.used]
        if not self.apart:
            return up[0], down
        q, v = torch.block_diag(*up).chunk(2)
        return torch.cat([q, torch.zeros_like(q), v]), down

    def forward(self, x: Float[Tensor, "*batch d1"]) -> Float[Tensor, "*batch d2"]:
        if not self.used:
            return self.linear(x)
        up, down = self.factors()
        return self.linear(x) + self.scale * F.linear(F.linear(self.dropout(x), down), up)

    @torch.no_grad()
    def fuse(self) -> nn.Linear:
        """Return a plain linear layer with the same function."""
        up, down = self.factors()
        return with_weights(self.linear, self.linear.weight + self.scale * up @ down, self.linear.bias)
