"""FacT (Jie & Deng, 2023): the changes of all blocks as one tensor, factorised; U and V are shared by the whole model.

Every linear layer is a grid of d x d matrices: qkv 3 x 1, proj 1 x 1, fc1 4 x 1, fc2 1 x 4. With x a row, the change of each is

    dW = scale * U S V        U (d, r), S (r, r), V (r, d)

S is free for each matrix (FacT-TT), or S = sum_c C[:, :, c] P[c, i], C (r, r, r) shared, i the matrix's number (FacT-TK).
(For the MLPs, the reshape in the authors' FacT-TK takes columns of four matrices in turn instead of one matrix after another.)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.glora.fusable import StandIn
from glora_lib.methods.vit import check_rank, freeze, fused_layer, layers


def fact_tt(model: nn.Module, rank: int = 16, scale: float = 1.0, dropout: float = 0.1) -> nn.Module:
    """Return the model with FacT-TT in its 4 linear layers a block: 2 d r + 12 r^2 a block on a ViT with MLPs of 4 d.

    The paper takes r from 4, 8, 16 and the scale from 0.01 to 100, by task.
    Raises ValueError for a rank above the width, and for a layer whose dimensions are no multiples of the width.
    """
    return _adapt(model, rank, scale, dropout, core=False)


def fact_tk(model: nn.Module, rank: int = 16, scale: float = 1.0, dropout: float = 0.1) -> nn.Module:
    """Return the model with FacT-TK in the same layers: 2 d r + 144 r + r^3 on ViT-B. The paper takes r from 16, 32."""
    return _adapt(model, rank, scale, dropout, core=True)


class Factors(nn.Module):
    """What all layers share: U and V, and for FacT-TK C and P."""

    def __init__(self, like: Tensor, d: int, rank: int, matrices: int | None):
        super().__init__()
        self.U = nn.Parameter(like.new_empty(d, rank).uniform_(-(d**-0.5), d**-0.5))
        self.V = nn.Parameter(like.new_zeros(rank, d))
        if matrices is not None:
            self.C = nn.Parameter(nn.init.xavier_uniform_(like.new_empty(rank, rank, rank)))
            self.P = nn.Parameter(nn.init.xavier_uniform_(like.new_empty(rank, matrices)))


class FactLinear(StandIn):
    """A linear layer with the change above; `place` is the number of its first matrix, None for FacT-TT."""

    def __init__(self, linear: nn.Linear, factors: Factors, place: int | None, scale: float, dropout: float):
        super().__init__(linear)
        self.linear, self.factors, self.place, self.scale = linear, factors, place, scale
        self.dropout = nn.Dropout(dropout)
        d, rank = factors.U.shape
        self.grid = linear.out_features // d, linear.in_features // d
        if place is None:
            bound = (rank * self.grid[1]) ** -0.5  # a linear layer's default, from all inputs of S to one output
            self.S = nn.Parameter(linear.weight.new_empty(*self.grid, rank, rank).uniform_(-bound, bound))

    def cores(self) -> Float[Tensor, "out in r r"]:
        """Return S of every matrix of the grid."""
        if self.place is None:
            return self.S
        rows, columns = self.grid
        P = self.factors.P[:, self.place : self.place + rows * columns]
        return torch.einsum("abc,ci->iab", self.factors.C, P).unflatten(0, self.grid)

    def forward(self, input: Float[Tensor, "*batch d1"]) -> Float[Tensor, "*batch d2"]:
        self._felt()
        inner = input.unflatten(-1, (self.grid[1], -1)) @ self.factors.U  # (*batch, in, r)
        inner = self.dropout(torch.einsum("...ja,ijab->...ib", inner, self.cores()))  # (*batch, out, r)
        return self.linear(input) + self.scale * (inner @ self.factors.V).flatten(-2)

    def effective(self) -> tuple[Float[Tensor, "d2 d1"], Float[Tensor, " d2"] | None]:
        """Return the changed weight, and the bias as it was."""
        dW = self.factors.U @ self.cores() @ self.factors.V  # (out, in, d, d), each for x as a row
        dW = dW.permute(0, 3, 1, 2).reshape(self.linear.weight.shape)
        return self.linear.weight + self.scale * dW, self.linear.bias

    def fuse(self) -> nn.Module:
        """Return a plain linear layer with the same function."""
        return fused_layer(self, self.linear)


def _adapt(model: nn.Module, rank: int, scale: float, dropout: float, core: bool) -> nn.Module:
    found = layers(model)
    check_rank(rank, found)
    d = next(iter(found.values())).in_features
    for name, layer in found.items():
        if layer.in_features % d or layer.out_features % d:
            shape = f"{layer.in_features} -> {layer.out_features}"
            raise ValueError(f"layer {name!r}, {shape}, does not divide into matrices of {d} x {d}, as FacT needs")
    freeze(model)
    sizes = {name: (layer.out_features // d) * (layer.in_features // d) for name, layer in found.items()}
    weight = next(iter(found.values())).weight.detach()
    factors = Factors(weight, d, rank, sum(sizes.values()) if core else None)
    place = 0
    for name, layer in found.items():
        model.set_submodule(name, FactLinear(layer, factors, place if core else None, scale, dropout))
        place += sizes[name]
    return model
