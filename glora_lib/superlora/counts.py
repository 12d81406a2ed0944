"""How many parameters a setting trains, by formula: from the sizes of weights alone, without a tensor."""

from collections.abc import Mapping, Sequence
from math import ceil, prod

from glora_lib.superlora.grouping import Grouping, Part
from glora_lib.superlora.settings import SuperLoRA


def parameters(setting: SuperLoRA, parts: Sequence[Part], shapes: Mapping[str, Sequence[int]]) -> int:
    """Return how many parameters a setting trains on these parts of weights of these shapes.

    A group of N numbers, folded to sides d_1, ..., d_M, has by setting: dense rho N; LoRA and CP r sum d_m; Tucker r sum d_m +
    r^M; LoTR r (d2 + d1) + n r^2; LoHa 2 r (d1 + d2); a Kronecker product the left factors' rows times columns, or r (rows +
    columns), and the same of the last.
    """
    total = 0
    for group in Grouping(parts, shapes, setting.groups).stretches:
        if setting.order == 1:
            total += ceil(setting.ratio * group.size)
            continue
        sides, r, M = setting.sides(group), setting.r, setting.order
        if setting.splits > 1:
            *left, last = setting.splits_of(sides)
            total += sum(prod(s) if setting.left_r is None else setting.left_r * sum(s) for s in left)
            r = setting.last_rank(last)
            total += prod(last) if r is None else r * sum(last)
        elif setting.core == "matrices":
            total += r * sum(sides[1:]) + sides[0] * r**2
        else:
            total += (1 + setting.hadamard) * r * sum(sides) + (r**M if setting.core == "free" else 0)
    return total
