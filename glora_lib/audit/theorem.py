"""Theorem 1 of GLoRA: what a subnet of a layer can move, and VC dimensions of small sets counted out."""

from functools import cache
from itertools import chain, combinations, product

import torch

from glora_lib.audit.equations import random_layer
from glora_lib.audit.judge import statement
from glora_lib.glora.space import TENSORS, Choice, Space

Hypotheses = frozenset[tuple[int, ...]]  # the labels that each hypothesis gives to the same few points


def freedom(choice: Choice, d2: int = 6, d1: int = 5, rank: int = 2) -> int:
    """Return in how many directions a subnet can move the fused weight and bias: the rank of their Jacobian."""
    return int(torch.linalg.matrix_rank(slopes(choice, d2, d1, rank)))


def slopes(choice: Choice, d2: int, d1: int, rank: int) -> torch.Tensor:
    """Return the Jacobian of the fused weight and bias, (d2 (d1 + 1), numbers that the choice uses or not)."""
    layer = random_layer(d2, d1, rank).use(choice)
    layer.fast = False
    probes = torch.cat([torch.eye(d1), torch.zeros(1, d1)]).double()  # the outputs at these inputs determine W and b
    support = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    found = torch.func.jacrev(lambda p: torch.func.functional_call(layer, p, probes))(support)
    return torch.cat([s.flatten(2) for s in found.values()], 2).flatten(0, 1)


@cache
def freedoms(d2: int = 10, d1: int = 8, rank: int = 2) -> tuple[int, list[int]]:
    """Return the freedom of the subnet with everything in a layer, and that of every subnet.

    The tensors add up (Eq. 10), so that the Jacobian of a choice is that of its forms side by side.
    """
    space = Space(("layer",), (rank,))
    places = [(tensor, form) for tensor in TENSORS for form in space.forms[tensor]]
    alone = {place: slopes(Choice(**dict([place])), d2, d1, rank) for place in places}
    alone = {place: found[:, found.any(0)] for place, found in alone.items()}  # what it uses

    def free(choice: Choice) -> int:
        parts = [alone[place] for place in zip(TENSORS, choice.forms, strict=True)]
        return int(torch.linalg.matrix_rank(torch.cat(parts, 1)))

    everything = f"lora{rank}"
    largest = free(Choice(everything, everything, everything, "vector", "vector"))
    return largest, [free(choice) for choice in space.choices()]


def bounded_by_dense(d2: int = 10, d1: int = 8) -> tuple[bool, str]:
    """Say whether the largest subnet has at least the freedom of every other; name the ceiling that fusion sets."""
    largest, every = freedoms(d2, d1)
    found = f"{largest} directions, {max(every)} at most of {len(every)}; a dense layer has {d2 * d1 + d2}"
    return largest >= max(every), found


def greater() -> tuple[bool, str]:
    """Say whether a subnet has less freedom than the largest: most, and none more. Theorem 1 allows as much."""
    largest, every = freedoms()
    fewer, equal = sum(number < largest for number in every), every.count(largest)
    holds = fewer > len(every) / 2 and fewer + equal == len(every)
    return holds, f"{fewer} of {len(every)} subnets of a layer have fewer directions than the largest, {equal} as many"


def vc_dimension(hypotheses: Hypotheses) -> int:
    """Return the largest number of points of which the hypotheses give every labelling; one hypothesis alone has 0."""
    if not hypotheses:
        raise ValueError("no hypothesis: the VC dimension of an empty set is not defined")
    points = range(len(next(iter(hypotheses))))

    def shattered(chosen: tuple[int, ...]) -> bool:
        return len({tuple(labels[point] for point in chosen) for labels in hypotheses}) == 2 ** len(chosen)

    return max(n for n in range(len(points) + 1) for chosen in combinations(points, n) if shattered(chosen))


def extremes(points: int = 2) -> list[tuple[Hypotheses, Hypotheses]]:
    """Return every pair of sets of labellings of `points`, the smaller within the larger, whose difference has dimension 0."""
    labellings = list(product((0, 1), repeat=points))
    sets = chain.from_iterable(combinations(labellings, n) for n in range(1, len(labellings) + 1))
    sets = [frozenset(chosen) for chosen in sets]
    return [(part, whole) for part in sets for whole in sets if part < whole and vc_dimension(whole - part) == 0]


def extreme_case() -> tuple[bool, str]:
    """Say whether the gap of Theorem 1 is zero wherever what H_uni has beyond H_i is of VC dimension 0.

    As a lower bound zero would always do; the sentence is about the gap.
    """
    pairs = extremes()
    apart = [pair for pair in pairs if vc_dimension(pair[1]) > vc_dimension(pair[0])]
    if not apart:
        return True, f"the gap is 0 in all {len(pairs)} pairs on two points"
    part, whole = max(apart, key=lambda pair: len(pair[0]))
    beyond, held = (", ".join("".join(map(str, labels)) for labels in sorted(some)) for some in (whole - part, part))
    dimensions = f"dimension {vc_dimension(part)} becomes {vc_dimension(whole)}"
    return (
        False,
        f"the gap is 1 in {len(apart)} of {len(pairs)} pairs on two points: H_i = {{{held}}}, H_o = {{{beyond}}}, {dimensions}",
    )


CHECKS = {
    "theorem/monotone": statement(bounded_by_dense),
    "theorem/greater": statement(greater),
    "theorem/extreme-case": statement(extreme_case),
}
