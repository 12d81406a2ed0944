"""The learning rate at every step."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from glora_lib.runs.profiles import PROFILES
from glora_lib.training.loop import adamw
from glora_lib.training.rates import schedule, set_rates

RECIPE = SimpleNamespace(
    epochs=10, warmup_epochs=2, first_learning_rate=1e-6, final_learning_rate=1e-5, learning_rate=1e-3, weight_decay=0.0
)


def rates(recipe, *epochs: float) -> list[list[float]]:
    """Return what `set_rates` sets at each of them: the rate of the head, if it has a group, after that of the rest."""
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    trained = dict(model.named_parameters())
    optimizer, found = adamw(trained, recipe, [name for name in trained if name.startswith("head")]), []
    for epoch in epochs:
        set_rates(optimizer, epoch, recipe)
        found.append([float(group["lr"]) for group in optimizer.param_groups])
    return found


@pytest.mark.parametrize("peak", [5e-5, 1e-3, 1e-2])
@pytest.mark.parametrize(
    ("epoch", "height", "floor"),
    [
        (0, 0.0, 1e-6),  # the warm-up's first step
        (1, 0.5, 1e-6),
        (2, 1.0, 0.0),  # the peak
        (6, 0.5, 1e-5),  # half of the cosine
        (10, 0.0, 1e-5),  # the end
    ],
)
def test_every_group_warms_up_linearly_to_its_own_peak_and_falls_as_a_cosine(epoch, height, floor, peak):
    recipe = SimpleNamespace(**vars(RECIPE) | {"head_learning_rate": peak})
    expected = [floor + (top - floor) * height for top in (recipe.learning_rate, peak)]
    assert rates(recipe, float(epoch)) == [pytest.approx(expected, rel=1e-9)]


@pytest.mark.parametrize("profile", PROFILES)
def test_no_rate_of_a_profile_lies_below_its_first_one_or_above_its_peak(profile):
    """A head with a higher peak than the rest must not start below zero, where a step would climb."""
    for method in ("glora", "full", "lora", "linear"):
        recipe = PROFILES[profile].for_method(method)
        peaks = recipe.learning_rate, recipe.head_learning_rate
        for found in rates(recipe, *(step / 20 for step in range(20 * recipe.epochs + 1))):
            for rate, peak in zip(found, peaks, strict=True):
                assert min(recipe.first_learning_rate, recipe.final_learning_rate) * (1 - 1e-9) <= rate <= peak


def test_without_warm_up_the_rate_starts_at_the_peak_and_never_rises():
    recipe = SimpleNamespace(**vars(RECIPE) | {"warmup_epochs": 0})
    heights = [schedule(step / 10, recipe)[0] for step in range(10 * recipe.epochs + 1)]
    assert heights[0] == 1
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == pytest.approx(0)


def test_a_rate_that_a_graph_reads_stays_where_it_is():
    parameter = nn.Parameter(torch.zeros(1))
    rate = torch.tensor(1e-3)
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": rate, "peak": 1e-3}], capturable=False, foreach=False)
    set_rates(optimizer, 1.0, RECIPE)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx((1e-6 + 1e-3) / 2)
