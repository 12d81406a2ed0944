"""The projection F of Eq. 3: fewer numbers to more, fixed and random, with nothing to store but its seed.

Fastfood is v H' diag(G) Pi H diag(B) with H the Walsh-Hadamard matrix of +1 and -1 and P rows, P the power of two at or above
the N numbers that come out; H' has its first m rows, and the first N numbers of the result are kept. Eq. 3 gives no scale. Here
it is 1 / sqrt(P N): the squared norm of what goes in is kept in the mean, as a Johnson-Lindenstrauss transform does, and each
number that comes out has m / N of the mean square of those that go in. F F^T is m / N times the identity in the mean: a step of
gradient descent that is stable for dense changes is stable for projected ones.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

PROJECTIONS = ("identity", "shuffle", "fastfood")
BLOCK = 32  # rows of the Hadamard matrix that a pass multiplies with: five steps of the fast transform at once


def projection(kind: str, numbers_in: int, numbers_out: int, seed: int | None, like: Tensor) -> nn.Module:
    """Return a projection by name. Raises ValueError for an unknown name, a missing seed, and sizes that it cannot have."""
    if kind not in PROJECTIONS:
        raise ValueError(f"projection {kind!r} is not known; valid: {', '.join(PROJECTIONS)}")
    if kind != "identity" and seed is None:
        raise ValueError(f"the projection {kind!r} has no seed, without which it is lost; give seed=0 or another")
    if kind != "fastfood" and numbers_in != numbers_out:
        raise ValueError(f"the projection {kind!r} leaves {numbers_in:,} numbers as many, not {numbers_out:,}; use 'fastfood'")
    if kind == "identity":
        return nn.Identity()
    return Shuffle(numbers_in, seed, like) if kind == "shuffle" else Fastfood(numbers_in, numbers_out, seed, like)


class Shuffle(nn.Module):
    """A random permutation of `numbers` numbers."""

    def __init__(self, numbers: int, seed: int, like: Tensor):
        super().__init__()
        order = torch.randperm(numbers, generator=torch.Generator().manual_seed(seed), dtype=torch.int32, device="cpu")
        self.register_buffer("order", order.to(like.device), persistent=False)

    def forward(self, v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return v.index_select(0, self.order)


class Fastfood(nn.Module):
    """Eq. 3, from m to N numbers, m at most N; G, Pi and B come from the seed and are no part of the state."""

    def __init__(self, m: int, n: int, seed: int, like: Tensor):
        super().__init__()
        if not 1 <= m <= n:
            raise ValueError(f"Fastfood makes {n:,} numbers of at most as many, not of {m:,}")
        self.m, self.n, self.places = m, n, 1 << (n - 1).bit_length()
        generator = torch.Generator().manual_seed(seed)  # on the processor, so that every device has the same
        G = torch.randn(self.places, generator=generator, dtype=torch.float32, device="cpu")
        Pi = torch.randperm(self.places, generator=generator, dtype=torch.int32, device="cpu")
        B = torch.randint(0, 2, (n,), generator=generator, dtype=torch.int8, device="cpu").mul_(2).sub_(1)
        scale = (self.places * n) ** -0.5
        for name, values in {"G": G.to(like.dtype).mul_(scale), "Pi": Pi, "B": B}.items():
            self.register_buffer(name, values.to(like.device), persistent=False)

    def forward(self, v: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
        spread = hadamard_transform(nn.functional.pad(v, (0, self.places - self.m)))
        mixed = hadamard_transform((spread * self.G).index_select(0, self.Pi))
        return mixed[: self.n] * self.B


def hadamard_transform(v: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """Return v H for the Walsh-Hadamard matrix H of +1 and -1, p a power of two: O(p log p) operations, no matrix of p rows.

    H of p rows is the Kronecker product of small ones. Each pass multiplies the first axis of the folded vector with one of
    them and leaves it as the last, so that all axes have had their turn, and stand as before, at the end.
    """
    p = left = v.numel()
    if p & (p - 1):
        raise ValueError(f"the Hadamard transform needs a power of two, not {p:,} numbers")
    while left > 1:
        block = min(BLOCK, left)
        v = v.reshape(block, -1).mT @ hadamard(block, v)
        left //= block
    return v.reshape(p)


def hadamard(rows: int, like: Tensor) -> Float[Tensor, "rows rows"]:
    """Return the Walsh-Hadamard matrix of +1 and -1, of a number of rows that is a power of two, of the kind of `like`."""
    H = like.new_ones(1, 1)
    while len(H) < rows:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H
