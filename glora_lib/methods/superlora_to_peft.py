"""SuperLoRA's groups in the forms that peft has: LoRA, LoHa and LoKr, of one weight each.

Two parts of one weight, as the queries and the values of a fused qkv, become blocks of one LoRA or LoHa of the sum of their
ranks; a Kronecker product has no such blocks.
"""

from collections.abc import Sequence
from math import ceil, isqrt

import torch
from torch import Tensor, nn

from glora_lib.superlora.grouping import Part
from glora_lib.superlora.model import SuperLoRAModel
from glora_lib.superlora.units import Dense, Hadamard, Kronecker, Tucker

Written = tuple[dict, dict[str, Tensor], tuple[str, ...]]
NAMES = {"LORA": (("lora_A.weight", "lora_B.weight"),), "LOHA": (("hada_w1_b", "hada_w1_a"), ("hada_w2_b", "hada_w2_a"))}


def written(net: SuperLoRAModel, reasons: list[str]) -> Written:
    """Return peft's settings and tensors of the groups, and what was written as a larger form; add why it cannot be done."""
    parts: dict[str, list[tuple[Part, nn.Module]]] = {}
    for number, (stretch, group) in enumerate(zip(net.grouping.stretches, net.groups, strict=True)):
        if len(stretch.shapes) != 1 or not isinstance(group.projection, nn.Identity):
            what = "its numbers are projected" if len(stretch.shapes) == 1 else "it is no single weight's"
            reasons.append(f"group {number} has no form in peft: {what}")
            continue
        part = net.grouping.parts[net.grouping.ends.index(stretch.start)]
        if part.axis or not isinstance(net.model.get_submodule(part.module), nn.Linear):
            reasons.append(f"{part.module} is no linear layer, where peft's form is another")
            continue
        parts.setdefault(part.module, []).append((part, group.unit))
    kinds = {kind_of(unit) for members in parts.values() for _, unit in members}
    if None in kinds or len(kinds) != 1:
        if kinds:
            found = sorted({type(unit).__name__ for members in parts.values() for _, unit in members})
            reasons.append(f"the units ({', '.join(found)}) are not LoRA, LoHa or LoKr alone, which peft has")
        return {}, {}, ()
    kind = kinds.pop()
    tensors, ranks, widened, factors = {}, {}, [], []
    for name, members in parts.items():
        shape = tuple(net.model.get_submodule(name).weight.shape)
        if kind == "LOKR":
            made, ranks[name] = _kronecker(name, members, shape, reasons, widened)
            factors.append(_factors(made["lokr_w1"].shape, shape))
        else:
            made, ranks[name] = _blocks(kind, members, shape)
        tensors |= {f"{name}.{own}": tensor for own, tensor in made.items()}
    common = set.intersection(*factors) if factors else {0}
    if not common:
        reasons.append("peft divides all layers in one way, and not as these Kronecker products are divided")
    rank = max(ranks.values())
    config = {"peft_type": kind, "r": rank, "lora_alpha" if kind == "LORA" else "alpha": net.scale * rank}
    config["rank_pattern"] = {name: own for name, own in ranks.items() if own != rank}
    config["alpha_pattern"] = {name: net.scale * own for name, own in ranks.items() if own != rank}
    config |= {"decompose_factor": min(common)} if factors and common else {}
    return config, tensors, tuple(widened)


def kind_of(unit: nn.Module) -> str | None:
    """Return peft's name of a unit's form; None where it has none."""
    if _is_lora(unit):
        return "LORA"
    if isinstance(unit, Hadamard) and _is_lora(unit.left) and _is_lora(unit.right):
        return "LOHA"
    matrices = isinstance(unit, Kronecker) and all(_is_lora(u) or isinstance(u, Dense) for u in unit.splits)
    return "LOKR" if matrices and len(unit.splits) == 2 else None


def _is_lora(unit: nn.Module) -> bool:
    return isinstance(unit, Tucker) and unit.core is None and len(unit.factors) == 2


def _blocks(kind: str, members: Sequence[tuple[Part, nn.Module]], shape: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
    """Return the factors of all parts of one weight side by side, and their common rank."""
    pairs = [[unit] if kind == "LORA" else [unit.left, unit.right] for _, unit in members]
    made = {}
    for place, (down, up) in enumerate(NAMES[kind]):
        units = [pair[place] for pair in pairs]
        ups = [unit.factors[0].new_zeros(shape[0], unit.factors[0].shape[1]) for unit in units]
        with torch.no_grad():
            for wide, unit, (part, _) in zip(ups, units, members, strict=True):
                wide[slice(*(part.rows or (0, shape[0])))] = unit.factors[0]
        made |= {down: torch.cat([unit.factors[1].T for unit in units]), up: torch.cat(ups, dim=1)}
    return made, sum(pair[0].factors[0].shape[1] for pair in pairs)


def _kronecker(name: str, members, shape: tuple[int, int], reasons: list[str], widened: list[str]) -> tuple[dict, int]:
    """Return the two matrices of a Kronecker product in peft's form, and its rank."""
    (part, unit), *others = members
    left, right = unit.splits
    w1, w2 = left(), right()
    if others or part.rows not in (None, (0, shape[0])):
        reasons.append(f"{name} is adapted by rows, which one Kronecker product of the whole weight does not do")
    elif tuple(a * b for a, b in zip(w1.shape, w2.shape, strict=True)) != shape:
        reasons.append(f"{name} has a Kronecker product that is larger than the weight")
    if isinstance(left, Tucker):
        widened.append(f"the left factor of {name}: of low rank as a dense one")
    if isinstance(right, Dense):  # peft's are dense from a rank of half their longer side on
        return {"lokr_w1": w1, "lokr_w2": w2}, ceil(max(w2.shape) / 2)
    made = {"lokr_w1": w1, "lokr_w2_a": right.factors[0], "lokr_w2_b": right.factors[1].T}
    rank = right.factors[0].shape[1]
    return (made if rank < max(w2.shape) / 2 else {"lokr_w1": w1, "lokr_w2": w2}), rank


def _factors(left: Sequence[int], shape: Sequence[int]) -> set[int]:
    """Return by what peft may be told to divide a weight so that its left matrix is this one; -1: as equally as it can."""
    equal = {-1} if tuple(left) == tuple(map(_most_equal, shape)) else set()
    return equal | ({left[0]} if left[0] == left[1] else set())


def _most_equal(side: int) -> int:
    """Return the smaller of the two numbers that multiply to `side` and differ least."""
    return next(number for number in range(isqrt(side), 0, -1) if side % number == 0)
