"""Grouping (Fig. 2): the changes of all weights as one long vector, cut into groups, and put back.

Weights are taken whole or by rows, as the queries and the values of a fused qkv. A group is a stretch of the vector: a weight,
a layer's weights, or one of G equal parts, whose borders need not be the weights'.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from math import ceil, prod

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Rows of a module's weight that are adapted: from the first to before the last, or all of them.

    `axis` 1 takes columns instead, as GPT-2 has its weights with the outputs last.
    """

    module: str
    rows: tuple[int, int] | None = None
    axis: int = 0

    @property
    def layer(self) -> str:
        """The module that holds it, whose weights are one group where grouping is layer-wise."""
        return self.module.rpartition(".")[0]


@dataclass(frozen=True)
class Stretch:
    """A group: where it lies in the long vector, its size (equal for all G groups), and the shapes of whole weights in it."""

    start: int
    stop: int
    size: int
    shapes: tuple[tuple[int, ...], ...] = ()  # () where it begins or ends inside a weight

    @property
    def padding(self) -> int:
        """Numbers at its end that belong to no weight."""
        return self.size - (self.stop - self.start)


class Grouping:
    """Which parts of which weights are adapted, and how their numbers fall into groups.

    Args:
        parts: in the order in which they are concatenated.
        shapes: the shape of each module's weight.
        groups: "weight", "layer" (parts of one layer must follow each other), or a number of groups.

    Raises ValueError for parts that repeat, overlap or leave their weight, and for more groups than can be filled.
    """

    def __init__(self, parts: Sequence[Part], shapes: Mapping[str, Sequence[int]], groups: int | str = "weight"):
        self.parts = tuple(parts)
        self.shapes = [_shape(part, shapes) for part in self.parts]
        _check_apart(self.parts)
        self.ends = [0, *accumulate(prod(shape) for shape in self.shapes)]
        self.stretches = tuple(self._stretches(groups))

    @property
    def numbers(self) -> int:
        """How many numbers of the weights are adapted."""
        return self.ends[-1]

    def _stretches(self, groups: int | str) -> Iterable[Stretch]:
        if isinstance(groups, int) and not isinstance(groups, bool):
            size = ceil(self.numbers / groups) if groups > 0 else 0
            if not size or (groups - 1) * size >= self.numbers:
                most = ceil(self.numbers / size) if size else 1
                raise ValueError(f"{groups} groups of {self.numbers:,} numbers leave one empty; valid: {most} or fewer")
            borders = [min(place * size, self.numbers) for place in range(groups + 1)]
        elif groups == "weight":
            size, borders = 0, self.ends
        elif groups == "layer":
            counts = [len(list(members)) for _, members in groupby(part.layer for part in self.parts)]
            size, borders = 0, [self.ends[place] for place in (0, *accumulate(counts))]
        else:
            raise ValueError(f"groups {groups!r} is not known; valid: 'weight', 'layer', or a number of groups")
        for start, stop in pairwise(borders):
            inside = {start, stop} <= set(self.ends)
            shapes = self.shapes[self.ends.index(start) : self.ends.index(stop)] if inside else ()
            yield Stretch(start, stop, size or stop - start, tuple(shapes))

    def gather(self, changes: Sequence[Tensor]) -> list[Float[Tensor, " _"]]:
        """Return the changes of the parts as one vector a group, with zeros as padding."""
        vector = torch.cat([change.reshape(-1) for change in changes])
        return [torch.nn.functional.pad(vector[s.start : s.stop], (0, s.padding)) for s in self.stretches]

    def scatter(self, vectors: Sequence[Float[Tensor, " _"]]) -> list[Tensor]:
        """Return the change of each part, in its shape, from one vector a group; padding falls away."""
        kept = [v[: s.stop - s.start] for v, s in zip(vectors, self.stretches, strict=True)]
        pieces = torch.cat(kept).split([prod(shape) for shape in self.shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]


def queries_and_values(shapes: Mapping[str, Sequence[int]]) -> list[Part]:
    """Return the queries and values among the layers of these names and weight shapes, layer by layer.

    A layer `qkv` is taken for queries, keys and values of equal width in one, as timm's, and so is `c_attn`, as GPT-2's; other
    names are `q_proj`, `query`, `to_q` and `v_proj`, `value`, `to_v`. Raises ValueError where there is none.
    """
    parts = []
    for name, shape in shapes.items():
        last = name.rpartition(".")[2]
        if last in ("qkv", "c_attn"):
            axis = int(last == "c_attn")
            width = shape[axis] // 3
            parts += [Part(name, (0, width), axis), Part(name, (2 * width, 3 * width), axis)]
        elif last in ("q_proj", "query", "to_q", "v_proj", "value", "to_v"):
            parts.append(Part(name))
    if not parts:
        raise ValueError(f"no queries and values among {', '.join(list(shapes)[:6]) or 'no layers'}; name the parts instead")
    return parts


def _shape(part: Part, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Return the shape of a part of a weight."""
    if part.module not in shapes:
        raise ValueError(f"no weight of {part.module!r} to adapt; there are: {', '.join(list(shapes)[:6]) or 'none'}")
    shape = list(shapes[part.module])
    start, stop = part.rows or (0, shape[part.axis])
    if not 0 <= start < stop <= shape[part.axis]:
        what = "columns" if part.axis else "rows"
        raise ValueError(f"{what} {start} to {stop} do not lie in the weight of {part.module!r}, which has {shape[part.axis]}")
    shape[part.axis] = stop - start
    return tuple(shape)


def _check_apart(parts: Sequence[Part]) -> None:
    if not parts:
        raise ValueError("there is no weight to adapt")
    taken: dict[str, list[Part]] = {}
    for part in parts:
        for other in taken.setdefault(part.module, []):
            if None in (part.rows, other.rows) or (part.rows[0] < other.rows[1] and other.rows[0] < part.rows[1]):
                raise ValueError(f"two parts of {part.module!r} share rows: {other.rows or 'all'} and {part.rows or 'all'}")
        taken[part.module].append(part)
