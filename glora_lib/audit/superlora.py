"""Checks on SuperLoRA: its table of settings on live tensors, its projection, and its counts."""

from itertools import accumulate
from math import prod

import torch

from glora_lib.audit.judge import statement, value
from glora_lib.audit.sources import setting

WEIGHTS, D = 24, 768  # the query and value matrices of ViT-B, each D x D
TOTAL = WEIGHTS * D * D
# the most cubic exact foldings of all 24 matrices at once, by order of the tensor
FOLDED = {2: (3456, 4096), 3: (216, 256, 256), 4: (54, 64, 64, 64), 5: (24, 24, 24, 32, 32)}


def tensor(*shape: int) -> torch.Tensor:
    """Return random numbers in float64, the same for the same shape."""
    generator = torch.Generator().manual_seed(sum(size * 1000**place for place, size in enumerate(shape)))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def tucker(core: torch.Tensor, factors: list[torch.Tensor]) -> torch.Tensor:
    """Return the mode products of Eq. 2, C x_1 A_1 ... x_M A_M, with factors (d_m, r_m)."""
    for mode, factor in enumerate(factors):
        core = torch.tensordot(factor, core, dims=([1], [mode])).movedim(0, mode)
    return core


def superlora(splits: list[tuple[torch.Tensor, list[torch.Tensor]]]) -> torch.Tensor:
    """Return Eq. 2 without projection: the Kronecker product over K splits, each a core and its factors."""
    return list(accumulate((tucker(*split) for split in splits), torch.kron))[-1]


def lora_row() -> tuple[bool, str]:
    """Say whether K = 1, M = 2 with an identity core is LoRA's A B^T."""
    A, B = tensor(6, 2), tensor(5, 2)
    error = (superlora([(torch.eye(2).double(), [A, B])]) - A @ B.T).abs().max()
    return bool(error < 1e-12), f"largest difference {error:.0e}"


def dense_row() -> tuple[bool, str]:
    """Say whether K = M = r = 1 with an identity core reaches any weight."""
    wanted = tensor(30)
    error = (superlora([(torch.ones(1).double(), [wanted[:, None]])]) - wanted).abs().max()
    return bool(error == 0), f"{wanted.numel()} free numbers for {wanted.numel()} entries, difference {error:.0e}"


def lokr_row() -> tuple[bool, str]:
    """Say whether K = 2, M = 2 with identity cores is a Kronecker product of two LoRA."""
    A1, B1, A2, B2 = tensor(3, 2), tensor(2, 2), tensor(4, 2), tensor(5, 2)
    eye = torch.eye(2).double()
    error = (superlora([(eye, [A1, B1]), (eye, [A2, B2])]) - torch.kron(A1 @ B1.T, A2 @ B2.T)).abs().max()
    return bool(error < 1e-12), f"largest difference {error:.0e}"


def lotr_order() -> tuple[bool, str]:
    """Say whether the order that Table 1 asks of LoTR allows the 2D tensor that Sec. 4.2.2 calls LoTR."""
    least, text = setting("lotr smallest order in Table 1"), setting("lotr order in Sec. 4.2.2")
    return text >= least, f"Table 1: M of {least:g} or more; Sec. 4.2.2: M = {text:g}"


def loha_reached() -> tuple[bool, str]:
    """Say whether LoHa, a Hadamard product of two LoRA, is a point of Eq. 2 if it may have any number of parameters."""
    r, d1, d2 = 4, 32, 24
    A1, B1, A2, B2 = tensor(d1, r), tensor(d2, r), tensor(d1 + 1, r)[1:], tensor(d2 + 1, r)[1:]
    wide = [(first[:, :, None] * second[:, None]).flatten(1) for first, second in ((A1, A2), (B1, B2))]
    error = (superlora([(torch.eye(r * r).double(), wide)]) - (A1 @ B1.T) * (A2 @ B2.T)).abs().max()
    more = sum(factor.numel() for factor in wide) / (2 * (A1.numel() + B1.numel()))
    found = f"LoHa of rank {r} is K = 1, M = 2 with rank {r * r} (difference {error:.0e}) and {more:g} times its parameters"
    return bool(error < 1e-12), f"{found}; no setting has both"


def lokr_left() -> tuple[bool, str]:
    """Say whether the left factor of Table 1's LoKr (K = 2, M = 2, identity cores) is dense, as Sec. 4.2.3 has it."""
    side, r = 6, 2
    rank = int(torch.linalg.matrix_rank(tucker(torch.eye(r).double(), [tensor(side, r), tensor(side + 1, r)[1:]])))
    return rank == side, f"by Eq. 2 it is A B^T: {side} x {side} of rank {rank} where r = {r}; a dense one has rank {side}"


def diagonal_core() -> tuple[bool, str]:
    """Say whether Eq. 4 with a diagonal core is Candecomp-Parafac, a sum of r outer products."""
    weights, factors = tensor(3), [tensor(4, 3), tensor(5, 3), tensor(6, 3)]
    core = torch.zeros(3, 3, 3, dtype=torch.float64)
    core[range(3), range(3), range(3)] = weights
    error = (tucker(core, factors) - torch.einsum("r,ir,jr,kr->ijk", weights, *factors)).abs().max()
    return bool(error < 1e-12), f"largest difference {error:.0e}"


def weightwise_groups() -> tuple[bool, str]:
    """Say whether one group a weight is weight-wise LoRA: split all changes into groups, factor each, and put them back."""
    factors = [(tensor(6, 2) + n, tensor(6, 2) - n) for n in range(3)]
    eye = torch.eye(2).double()
    flat = torch.cat([superlora([(eye, list(pair))]).flatten() for pair in factors])
    back = [part.view(6, 6) for part in flat.split(36)]
    error = max(float((part - A @ B.T).abs().max()) for part, (A, B) in zip(back, factors, strict=True))
    return error < 1e-12, f"largest difference {error:.0e} over 3 weights"


def per_rank(order: int) -> int:
    """Return what a rank costs when all 24 matrices are folded to a tensor of this order with an identity core (CP)."""
    return sum(FOLDED[order])


def reshaping_saves() -> tuple[bool, str]:
    """Say whether folding 24 stacked matrices to a square saves parameters at the same rank."""
    stacked = D + WEIGHTS * D
    return per_rank(
        2
    ) < stacked, f"{per_rank(2):,} a rank as {FOLDED[2][0]} x {FOLDED[2][1]}, {stacked:,} as {D} x {WEIGHTS * D}"


def higher_order_saves() -> tuple[bool, str]:
    """Say whether each higher order of the folded tensor needs fewer parameters a rank, with exact foldings."""
    counts = [per_rank(order) for order in FOLDED]
    exact = all(prod(shape) == TOTAL for shape in FOLDED.values())
    return exact and counts == sorted(counts, reverse=True), ", ".join(
        f"{m}D {n:,} r" for m, n in zip(FOLDED, counts, strict=True)
    )


def core_explodes() -> tuple[bool, str]:
    """Say whether Tucker's core outgrows the factors at higher orders and ranks (5D, rank 8)."""
    core, factors = 8**5, 8 * per_rank(5)
    return core > factors, f"5D of rank 8: core {core:,}, factors {factors:,}"


def lowest_lora() -> int:
    """Return the parameters of LoRA of rank 1 on the query and value layers of ViT-B."""
    return WEIGHTS * 2 * D


def ten_fold() -> tuple[bool, str]:
    """Say whether LoRTA (3D) has a rank at a tenth of the smallest LoRA; accuracy is another question."""
    fitting = {r: per_rank(3) * r + r**3 for r in range(1, 20) if per_rank(3) * r + r**3 <= lowest_lora() / 10}
    rank, size = max(fitting.items())
    return bool(fitting), f"rank {rank} has {size:,}, LoRA of rank 1 {lowest_lora():,}; the accuracy is not run"


def factors_count() -> tuple[bool, str]:
    """Say whether A and B of LoRA hold (d1 + d2) r numbers."""
    d1, d2, r = 7, 5, 3
    found = tensor(d1, r).numel() + tensor(d2, r).numel()
    return found == (d1 + d2) * r, f"{found} for 7 x 5 and rank 3"


def seed_is_enough() -> tuple[bool, str]:
    """Say whether Fastfood's random parts come back from a seed, so that nothing but the seed is stored."""

    def parts(seed: int) -> tuple[torch.Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        return torch.randn(16, generator=g), torch.randperm(16, generator=g), torch.randint(0, 2, (16,), generator=g)

    same = all(torch.equal(*pair) for pair in zip(parts(0), parts(0), strict=True))
    return same, "the same numbers from the same seed" if same else "other numbers from the same seed"


def hadamard(n: int) -> torch.Tensor:
    """Return the Walsh-Hadamard matrix of +1 and -1, (n, n), n a power of 2."""
    H = torch.ones(1, 1, dtype=torch.float64)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H


def fastfood_gain(normalised: bool, m: int = 8, n: int = 64, draws: int = 400) -> float:
    """Return the mean of |F(v)|^2 / |v|^2 for Eq. 3 as printed, with H of +1 and -1 or orthonormal, from m to n numbers."""
    g = torch.Generator().manual_seed(0)
    H = hadamard(n) / (n**0.5 if normalised else 1)
    v = tensor(m)
    ratios = []
    for _ in range(draws):
        spread = torch.randn(n, generator=g, dtype=torch.float64)
        signs = torch.randint(0, 2, (n,), generator=g).double() * 2 - 1
        out = ((v @ H[:m]) * spread)[torch.randperm(n, generator=g)] @ H * signs
        ratios.append(float(out.square().sum() / v.square().sum()))
    return sum(ratios) / draws


def keeps_norms() -> tuple[bool, str]:
    """Say whether Eq. 3 keeps norms in the mean, as a Johnson-Lindenstrauss transform does, for some usual scale of H."""
    plain, orthonormal = fastfood_gain(False), fastfood_gain(True)
    found = (
        f"squared norms (8 to 64 numbers) grow {orthonormal:.1f}-fold with an orthonormal H, {plain:,.0f}-fold with +1 and -1"
    )
    return 0.8 < orthonormal < 1.25 or 0.8 < plain < 1.25, f"{found}; Eq. 3 does not say which"


CHECKS = {
    "superlora/lora": statement(lora_row),
    "superlora/dense": statement(dense_row),
    "superlora/lokr": statement(lokr_row),
    "superlora/lotr": statement(lotr_order),
    "superlora/lokr-left": statement(lokr_left),
    "superlora/loha": statement(loha_reached),
    "superlora/cp": statement(diagonal_core),
    "superlora/weight-wise": statement(weightwise_groups),
    "superlora/lora-count": statement(factors_count),
    "superlora/reshape": statement(reshaping_saves),
    "superlora/higher-order": statement(higher_order_saves),
    "superlora/core": statement(core_explodes),
    "superlora/lowest-lora": value(lambda: float(lowest_lora()), "{:,.0f}"),
    "superlora/ten-fold-count": statement(ten_fold),
    "superlora/seed": statement(seed_is_enough),
    "superlora/johnson-lindenstrauss": statement(keeps_norms),
}
