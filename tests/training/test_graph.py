"""A function as a CUDA graph does what it does when it is called; on a processor it is called."""

import pytest
import torch

from glora_lib.training.graph import WARM_UP, Graphed


def test_what_a_function_changes_in_place_changes_in_every_call(place):
    """Plain calls, capture and replays of two shapes in turns, beside another graph in the same memory."""
    total = torch.zeros(4, device=place)

    def add(x):
        total.add_(x.sum(0))
        return total * 2

    added, squared = Graphed(add, place), Graphed(lambda x: (x * x).sum(0), place)
    if place.type == "cuda":
        added.pool = squared.pool = torch.cuda.graph_pool_handle()
    expected = 0.0
    for number in range(4 * WARM_UP):
        rows = 2 + number % 2
        x = torch.full((rows, 4), float(number), device=place)
        expected += rows * number
        twice, squares = added(x), squared(x)
        assert twice.tolist() == [2 * expected] * 4
        assert squares.tolist() == [rows * number**2] * 4
    assert total.tolist() == [expected] * 4


def test_random_numbers_are_new_in_every_call_and_the_same_from_the_same_seed(place):
    draw = Graphed(lambda x: torch.empty_like(x).bernoulli_(0.5), place)
    x, seen = torch.zeros(1000, device=place), []
    for _ in range(2 * WARM_UP):
        draw(x)
    for _ in range(2):
        torch.manual_seed(1)
        seen.append([draw(x).clone() for _ in range(2)])
    (first, second), again = seen
    assert not torch.equal(first, second)
    assert torch.equal(torch.stack([first, second]), torch.stack(again))
    assert first.mean().item() == pytest.approx(0.5, abs=0.1)
