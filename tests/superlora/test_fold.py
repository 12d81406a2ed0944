"""Reshaping: the paper's sizes, and that no other exact shape is cheaper."""

from itertools import combinations_with_replacement
from math import prod

import pytest

from glora_lib.superlora.fold import SLACK, divisors, exact, fold, given

ALL = 24 * 768 * 768  # the queries and values of ViT-B


@pytest.mark.parametrize(
    ("order", "sides"),
    [(1, (ALL,)), (2, (3456, 4096)), (3, (216, 256, 256)), (4, (54, 64, 64, 64)), (5, (24, 24, 24, 32, 32))],
)
def test_all_queries_and_values_of_vit_b(order, sides):
    assert fold(ALL, order) == sides
    assert prod(sides) == ALL


@pytest.mark.parametrize(("groups", "a_rank"), [(1, 7_552), (4, 15_104), (8, 21_504), (12, 26_112), (24, 36_864)])
def test_what_a_rank_costs_in_two_dimensions_by_the_number_of_groups(groups, a_rank):
    assert groups * sum(fold(ALL // groups, 2)) == a_rank


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("numbers", [1, 12, 64, 360, 5040, 4096])
def test_no_exact_shape_has_a_smaller_sum(numbers, order):
    shapes = (s for s in combinations_with_replacement(divisors(numbers), order) if prod(s) == numbers)
    assert sum(exact(numbers, order)) == min(map(sum, shapes))


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("numbers", [9_999_991, 147_457, 2 * 99_991, 10_007])
def test_a_number_without_balanced_divisors_is_rounded_up_a_little(numbers, order):
    sides = fold(numbers, order)
    assert sides[-1] <= SLACK * sides[0]
    assert numbers < prod(sides) < 1.02 * numbers
    assert list(sides) == sorted(sides)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("numbers", [1, 2, 3, 7])
def test_small_numbers_fold_without_padding(numbers, order):
    assert prod(fold(numbers, order)) == numbers


@pytest.mark.parametrize("wrong", [(0, 2), (5, 0), (-1, 3)])
def test_nothing_cannot_be_folded(wrong):
    with pytest.raises(ValueError, match="cannot be folded to .* both must be at least 1"):
        fold(*wrong)


def test_a_given_shape_must_multiply_out():
    assert given((4, 6), 24) == (4, 6)
    with pytest.raises(ValueError, match="the shape 4 x 7 has 28 places, a group 24 numbers; one that fits: 4 x 6"):
        given((4, 7), 24)
    with pytest.raises(ValueError, match="places, a group 24 numbers"):
        given((-4, -6), 24)
