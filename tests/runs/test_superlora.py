"""SuperLoRA's runs: what they are called, that their recipe is one, and what a record of each kind of head holds."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch

from glora_lib.methods import METHODS
from glora_lib.runs.grid import execute
from glora_lib.runs.profiles import CPU, PROFILES
from glora_lib.runs.record import Record
from glora_lib.runs.stages import FITTED
from glora_lib.runs.superlora import REPEATED, SETTINGS, best_rates, named, one_rate_for_all, rates, rates_of, repeats, run
from glora_lib.training import steps

SMOKE = PROFILES["smoke"]
pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_setting_is_one_that_the_backbone_can_have():
    import timm

    with torch.device("meta"):
        model = timm.create_model("vit_small_patch14_dinov2", img_size=42, num_classes=10)
        sizes = {name: METHODS[f"superlora_{preset}"](model, **options).report() for name, (preset, options) in SETTINGS.items()
                 if options.get("groups") != 1 or "projection" not in options}  # fmt: skip
    assert all(row["padding"] < 0.1 * row["numbers"] for rows in sizes.values() for row in rows)
    assert set(REPEATED) <= set(SETTINGS)


def test_runs_are_named_after_their_settings_and_have_one_recipe():
    found = rates("cifar", CPU)
    assert len(found) == 2 * len(SETTINGS) == len({one.id for one in found})
    assert {one.seed for one in found} == {0}
    assert {named(one.label)[0] for one in found[: 2 * len(REPEATED)]} == set(REPEATED)
    assert [named(one.label)[1] for one in found] == [one.recipe.learning_rate for one in found]
    without = ("options", "learning_rate")
    recipes_of = [{k: v for k, v in one.recipe.settings().items() if k not in without} for one in found]
    assert all(recipe == recipes_of[0] for recipe in recipes_of)
    assert {one.experiment for one in found} == {"superlora_trained_head"}
    assert {one.experiment for one in one_rate_for_all("mnist_m", CPU)} == {"superlora_recipe"}


def test_each_kind_has_rates_of_its_own_and_a_projected_one_those_divided_by_its_ratio():
    wanted = {
        "dense": (0.0003, 0.003),
        "dense rho=0.1": (0.003, 0.03),
        "dense rho=0.01": (0.03, 0.3),
        "LoRA r=1": (0.003, 0.03),
        "LoNKr K=2 side=8 r=4": (0.003, 0.03),
        "2D fold G=1 r=4 rho=0.25": (0.012, 0.12),
        "5D r=6": (0.03, 0.3),
    }
    assert {name: rates_of(name, CPU) for name in wanted} == wanted
    assert {rate for name in SETTINGS for rate in rates_of(name, PROFILES["paper"])} == {0.05}


def test_validation_images_choose_a_rate_and_other_seeds_take_it():
    rows = [
        ("LoRA_r=1@0.003", 0.5, 0),
        ("LoRA_r=1@0.03", 0.6, 0),
        ("LoRA_r=1@0.3", 0.6, 0),
        ("dense@0.003", 0.7, 0),
        ("dense@0.3", 0.9, 1),
    ]
    best = best_rates(pd.DataFrame(rows, columns=["method", "val", "seed"]), 0)
    assert best == {"LoRA r=1": 0.03, "dense": 0.003}
    found = repeats("cifar10", CPU, "frozen", best)
    order = [("dense@0.003", 1), ("LoRA_r=1@0.03", 1), ("dense@0.003", 2), ("LoRA_r=1@0.03", 2)]
    assert [(one.label, one.seed) for one in found] == order
    also = repeats("cifar10", CPU, "frozen", best | {"3D r=1": 0.3}, also=["3D r=1", "dense", "LoRA r=2"])
    assert [(one.label, one.seed) for one in also if one.seed == 1] == [*order[:2], ("3D_r=1@0.3", 1)]
    assert {one.recipe.one_cycle["head"] for one in found} == {"frozen"}


@pytest.mark.parametrize("head", ["trained", "frozen"])
def test_a_run_leaves_one_record_with_its_recipe_and_its_head(head, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "glora_lib.runs.stages.one_cycle", lambda net, *rest, **more: seen.append(net) or steps.one_cycle(net, *rest, **more)
    )
    one = run("3D r=1", 0.05, "gratings", replace(SMOKE, seeds=(0,)), 0, head)
    found = execute(one)
    assert isinstance(found, Record)
    assert (found.experiment, found.method) == (f"superlora_{head}_head", "3D_r=1@0.05")
    assert found.settings["options"] == {"r": 1, "order": 3}
    assert found.settings["one_cycle"]["steps"] == 4
    assert found.metrics["n_test"] == 32
    assert found.cost["head"] == (0 if head == "frozen" else 64 * 4 + 4)
    assert [row["step"] for row in found.history["train"]] == [0, 1, 2, 3]
    (net,) = seen
    assert found.cost["trained"] == sum(row["parameters"] for row in net.report())
    assert any(p.requires_grad for p in net.model.head.parameters()) == (head == "trained")


def test_a_head_that_was_fitted_before_gives_the_same_record():
    one = run("LoRA r=3", 0.05, "gratings", replace(SMOKE, seeds=(0,)), 0)
    FITTED.clear()
    fitted, (head,) = execute(one), FITTED.values()
    shutil.rmtree(one.state_folder, ignore_errors=True)
    kept = execute(one)
    assert kept.metrics == fitted.metrics
    assert [row["loss"] for row in kept.history["train"]] == [row["loss"] for row in fitted.history["train"]]
    assert next(iter(FITTED.values())) is head
    execute(run("LoRA r=3", 0.05, "gratings", replace(SMOKE, seeds=(1,)), 1))
    assert next(iter(FITTED.values())) is not head
