"""What a group's tensor is made of: Eq. 2's units, each a module that returns its tensor and starts at zero.

Dense: free numbers (M = 1). Tucker: C x_1 A_1 ... x_M A_M with a free core, with C = I (LoRA for M = 2, CP beyond), or with
modes that keep all their places, A_m = I (LoTR: its tensor train over the matrices of a model is Tucker's form with the first
mode whole). Kronecker: the product over K splits. Hadamard: the elementwise product of two units, which Eq. 2 does not have.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Dense(nn.Module):
    """Free numbers of a shape, zero at first."""

    def __init__(self, shape: Sequence[int], like: Tensor):
        super().__init__()
        self.values = nn.Parameter(like.new_zeros(tuple(shape)))

    def forward(self) -> Tensor:
        return self.values


class Tucker(nn.Module):
    """C x_1 A_1 x_2 ... x_M A_M, with A_m of shape (d_m, r_m).

    Args:
        shape: d_1, ..., d_M.
        ranks: r_1, ..., r_M; None where a mode keeps all its places, whose A is the identity.
        free: whether the core is trained; else it is the identity (ones on its diagonal), and all ranks are equal.

    The factors start uniform within 1 / sqrt(d_m), as Kaiming's in LoRA; the first is zero, so that the tensor is. A free core
    starts as the identity, from which it differs only by being trained; where a mode is whole, see `lotr`.
    Raises ValueError for a rank that is not between 1 and its mode's length.
    """

    def __init__(self, shape: Sequence[int], ranks: Sequence[int | None], like: Tensor, free: bool = False):
        super().__init__()
        check_ranks(shape, ranks)
        self.shape = tuple(shape)
        self.factors = nn.ParameterList(
            nn.Parameter(like.new_empty(d, r).uniform_(-(d**-0.5), d**-0.5)) for d, r in zip(shape, ranks, strict=True) if r
        )
        nn.init.zeros_(self.factors[0])
        self.whole = tuple(r is None for r in ranks)
        self.core = None
        if free:
            sides = [r or d for d, r in zip(shape, ranks, strict=True)]
            self.core = nn.Parameter(identity(sides, like))

    def forward(self) -> Tensor:
        if self.core is None:
            columns = reduce(khatri_rao, self.factors[1:])  # (d_2 ... d_M, r)
            return (self.factors[0] @ columns.mT).view(self.shape)
        tensor, factors = self.core, iter(self.factors)
        for whole in self.whole:  # each step takes the first mode away and puts its image last
            tensor = tensor.movedim(0, -1) if whole else torch.tensordot(tensor, next(factors), dims=([0], [1]))
        return tensor


class Kronecker(nn.Module):
    """The Kronecker product of units of the same order; the first is the outermost, as in torch.kron."""

    def __init__(self, units: Sequence[nn.Module]):
        super().__init__()
        self.splits = nn.ModuleList(units)

    def forward(self) -> Tensor:
        return reduce(torch.kron, (unit() for unit in self.splits))


class Hadamard(nn.Module):
    """The elementwise product of two units of one shape."""

    def __init__(self, left: nn.Module, right: nn.Module):
        super().__init__()
        self.left, self.right = left, right

    def forward(self) -> Tensor:
        return self.left() * self.right()


def lora(shape: Sequence[int], r: int, like: Tensor) -> Tucker:
    """Return LoRA's A B^T of a shape, or CP beyond two modes: r (d_1 + ... + d_M) numbers. As in Hu et al., A is zero first."""
    return Tucker(shape, [r] * len(shape), like)


def lorta(shape: Sequence[int], r: int, like: Tensor) -> Tucker:
    """Return Tucker's form with a free core: r (d_1 + ... + d_M) + r^M numbers. How the authors start it is not said."""
    return Tucker(shape, [r] * len(shape), like, free=True)


def lotr(shape: Sequence[int], r: int, like: Tensor) -> Tucker:
    """Return U C_i V for each of n matrices, (n, d2, d1): r (d2 + d1) + n r^2 numbers.

    As in its authors' code (daskol/lotr) U and V are normal with deviation 1 and the cores zero; there the change is divided
    by r, here by what `scale` says.
    """
    unit = Tucker(shape, [None, r, r], like, free=True)
    for factor in unit.factors:
        nn.init.normal_(factor)
    nn.init.zeros_(unit.core)
    return unit


def loha(shape: Sequence[int], r: int, like: Tensor) -> Hadamard:
    """Return (W1a W1b) * (W2a W2b): 2 r (d2 + d1) numbers. As in LyCORIS: normal, deviations 1 and 0.1, W1a zero."""
    left, right = Tucker(shape, [r, r], like), Tucker(shape, [r, r], like)
    for unit in (left, right):
        nn.init.normal_(unit.factors[1])
    nn.init.normal_(right.factors[0], std=0.1)
    return Hadamard(left, right)


def kronecker(sides: Sequence[tuple[int, int]], r: int | None, left_r: int | None, like: Tensor) -> Kronecker:
    """Return a Kronecker product of matrices of these (rows, columns), the last one A B^T of rank r, or dense for None.

    The others are dense, or of rank `left_r`. As in LyCORIS all start as Kaiming's but the last one's B, or all of it: zero.
    """
    units = []
    for rows, columns in sides[:-1]:
        unit = Dense((rows, columns), like) if left_r is None else Tucker((rows, columns), [left_r] * 2, like)
        units.append(unit)
        for p in unit.parameters():  # LyCORIS has W1b as (r, columns), ours is transposed: its bound is that of the columns
            bound = (columns if left_r is None or p is not unit.factors[0] else left_r) ** -0.5
            nn.init.uniform_(p, -bound, bound)
    last = Dense(sides[-1], like) if r is None else Tucker(sides[-1], [r, r], like)
    if r is not None:
        nn.init.uniform_(last.factors[0], -(r**-0.5), r**-0.5)
        nn.init.zeros_(last.factors[1])
    return Kronecker([*units, last])


def identity(sides: Sequence[int], like: Tensor) -> Tensor:
    """Return a tensor with ones where all indices are equal, else zeros."""
    core = like.new_zeros(tuple(sides))
    place = torch.arange(min(sides), device=like.device)
    core[(place,) * len(sides)] = 1.0
    return core


def khatri_rao(left: Float[Tensor, "a r"], right: Float[Tensor, "b r"]) -> Float[Tensor, "ab r"]:
    """Return the columnwise Kronecker product."""
    return (left[:, None] * right[None]).flatten(0, 1)


def check_ranks(shape: Sequence[int], ranks: Sequence[int | None]) -> None:
    """Raise ValueError for ranks that are fewer than the modes, or not between 1 and their mode's length."""
    if len(shape) != len(ranks):
        raise ValueError(f"{len(ranks)} ranks for a tensor of {len(shape)} modes, {tuple(shape)}")
    for mode, (d, r) in enumerate(zip(shape, ranks, strict=True), start=1):
        if r is not None and not 1 <= r <= d:
            raise ValueError(f"rank {r} does not suit mode {mode} of the shape {tuple(shape)}, of length {d}; valid: 1 to {d}")
