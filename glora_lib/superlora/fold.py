"""Reshaping (Sec. 3.2): the most square or cubic tensor that holds a group's numbers.

A rank costs as many parameters as the sides of the tensor add up to, so that of all exact shapes the one with the smallest sum
is taken. A number without balanced divisors is rounded up to one that has them; the paper does not say what it does there.
"""

from functools import cache
from itertools import count
from math import prod

SLACK = 4  # a shape is balanced if its longest side is at most this many times its shortest


@cache
def exact(numbers: int, order: int) -> tuple[int, ...]:
    """Return `order` sides, ascending, whose product is `numbers` and whose sum is the smallest there is."""
    if order == 1:
        return (numbers,)
    best: tuple[int, ...] = ()
    for first in divisors(numbers):
        if first**order > numbers:
            break
        sides = tuple(sorted((first, *exact(numbers // first, order - 1))))
        if not best or sum(sides) < sum(best):
            best = sides
    return best


@cache
def fold(numbers: int, order: int) -> tuple[int, ...]:
    """Return the sides of the most cubic tensor of `order` modes with at least `numbers` places, ascending.

    Exact where the best exact shape is balanced, else that of the next number that has a balanced one; the places beyond
    `numbers` are padding. Raises ValueError where `numbers` or `order` is below 1.
    """
    if numbers < 1 or order < 1:
        raise ValueError(f"{numbers} numbers cannot be folded to {order} modes; both must be at least 1")
    for places in count(numbers):
        sides = exact(places, order)
        if sides[-1] <= SLACK * sides[0] or places ** (1 / order) < SLACK:
            return sides
    raise AssertionError  # a power above every number has equal sides


def given(shape: tuple[int, ...], numbers: int) -> tuple[int, ...]:
    """Return a shape that was asked for. Raises ValueError unless its sides multiply out to `numbers`."""
    if not shape or min(shape) < 1 or prod(shape) != numbers:
        sides = " x ".join(map(str, shape))
        fits = " x ".join(map(str, fold(numbers, max(1, len(shape)))))
        raise ValueError(f"the shape {sides} has {prod(shape):,} places, a group {numbers:,} numbers; one that fits: {fits}")
    return tuple(shape)


@cache
def divisors(number: int) -> tuple[int, ...]:
    """Return the divisors of a number, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(small + [number // d for d in reversed(small) if d * d != number])
