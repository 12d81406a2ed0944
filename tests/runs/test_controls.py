"""The controls: which runs they are, and what one of each measures."""

from dataclasses import replace

import pytest
import torch

import glora_lib as gl
from glora_lib.glora.space import from_json
from glora_lib.runs import run as run_module
from glora_lib.runs.controls import ablation, controls, exactly, other_sizes, rates, sensitivity, whole_budget
from glora_lib.runs.grid import execute
from glora_lib.runs.profile import CONTROLS
from glora_lib.runs.profiles import CPU, PAPER, SMOKE
from glora_lib.runs.run import Run

PROFILE = replace(SMOKE, epochs=1, warmup_epochs=0, generations=1, population=4, parents=2, mutations=1, crossovers=1)


def test_each_control_is_a_run_of_its_own():
    runs = controls("gratings", SMOKE, seed=2)
    assert [run.label or run.method for run in runs] == list(CONTROLS)
    assert len({run.id for run in runs}) == len(CONTROLS)
    assert {(run.experiment, run.task, run.seed) for run in runs} == {("controls", "gratings", 2)}


def test_a_task_has_the_controls_that_the_profile_names_for_it():
    profile = replace(SMOKE, controlled={"gratings": ("lora_long", "glora_random")})
    assert [run.label or run.method for run in controls("gratings", profile)] == ["lora_long", "glora_random"]
    assert controls("mnist_5k", profile) == []


@pytest.mark.parametrize(("profile", "epochs"), [(PAPER, 588), (CPU, 27)])
def test_the_whole_budget_adds_the_scored_images_as_a_third(profile, epochs):
    """500 + 1,050 * 200 / (3 * 800) = 587.5 at paper scale, 14 + 150 * 200 / 2,400 = 26.5 in the cpu profile."""
    assert whole_budget(profile) == epochs


@pytest.mark.parametrize("profile", [PAPER, CPU, SMOKE])
def test_lora_gets_that_budget_and_keeps_the_rest_of_its_recipe(profile):
    task = next(iter(profile.controlled))
    long = {run.label: run for run in controls(task, profile)}["lora_long"]
    recipe, plain = long.recipe.settings(), Run("vtab1k", task, "lora", profile).recipe.settings()
    assert recipe == plain | {"epochs": whole_budget(profile)}
    assert recipe["epochs"] > profile.epochs


@pytest.mark.parametrize("profile", [PAPER, CPU, SMOKE])
def test_the_matched_lora_changes_rank_and_placement_alone(profile):
    everywhere = replace(profile, controlled={"gratings": ("lora_matched",)})
    (matched,) = controls("gratings", everywhere)
    recipe, plain = matched.recipe.settings(), Run("vtab1k", "gratings", "lora", profile).recipe.settings()
    assert recipe == plain | {"options": {"rank": profile.rank, "placement": "all"}}


def test_searches_of_one_supernet_share_its_training():
    by_name = {run.method: run for run in controls("indian_pines_9", CPU)}
    glora = Run("vtab1k", "indian_pines_9", "glora", CPU)
    folders = {run.supernet.state_folder for run in (glora, by_name["glora_random"], by_name["glora_oracle"])}
    assert len(folders) == 1


@pytest.mark.parametrize("profile", [PAPER, CPU, SMOKE])
def test_the_other_sizes_change_the_ranks_alone_and_have_supernets_of_their_own(profile):
    glora, runs = Run("vtab1k", "gratings", "glora", profile), other_sizes("gratings", profile)
    assert len({run.supernet.state_folder for run in (glora, *runs)}) == 1 + len(profile.other_ranks)
    for run, ranks in zip(runs, profile.other_ranks, strict=True):
        assert run.recipe.settings() == glora.recipe.settings() | {"ranks": list(ranks)}
        assert run.recipe.ranks != glora.recipe.ranks
        assert run.label == "glora-" + "+".join(map(str, ranks))


@pytest.mark.parametrize("profile", [CPU, SMOKE], ids=["cpu", "smoke"])
def test_rates_change_a_method_s_rate_alone_and_include_its_own(profile):
    runs = rates("gratings", profile)
    assert len({(run.experiment, run.id) for run in runs}) == len(runs)
    for run in runs:
        own = Run("vtab1k", "gratings", run.method, profile)
        changed = {name for name, value in run.recipe.settings().items() if value != own.recipe.settings()[name]}
        assert changed == (set() if run.experiment == "vtab1k" else {"learning_rate"})
    for method, others in profile.rates.items():
        found = [run.recipe.learning_rate for run in runs if run.method == method]
        assert found == [profile.for_method(method).learning_rate, *others]


@pytest.mark.parametrize("profile", [PROFILE, CPU], ids=["smoke", "cpu"])
def test_an_ablation_trains_one_configuration_without_a_support_tensor_as_lora_is_trained(profile):
    runs, lora = {run.label: run for run in ablation("gratings", profile)}, profile.for_method("lora")
    assert list(runs) == ["whole", *(f"without_{names}" for names in ("A", "B", "C", "D", "E", "AB", "CDE"))]
    assert len({run.state_folder for run in runs.values()}) == len(runs)
    for label, run in runs.items():
        assert run.recipe.left_out == label.removeprefix("whole").removeprefix("without_")
        changed = {name for name in lora.settings() if run.recipe.settings().get(name) != lora.settings()[name]}
        assert changed <= {"options"}


def test_what_an_ablation_leaves_out_is_in_no_layer_and_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "CACHE", tmp_path)
    runs = {run.label: run for run in ablation("gratings", PROFILE) if run.label in ("whole", "without_C", "without_AB")}
    records = {label: execute(run) for label, run in runs.items()}
    for label, record in records.items():
        none = {tensor for choice in record.config.values() for tensor, form in choice.items() if form == "none"}
        assert none == set(label.removeprefix("whole").removeprefix("without_"))
        assert record.settings.get("left_out", "") == runs[label].recipe.left_out
    stored = {label: record.cost["stored"] for label, record in records.items()}
    assert stored["without_AB"] < stored["without_C"] < stored["whole"]


@pytest.mark.parametrize("profile", [PAPER, CPU], ids=["paper", "cpu"])
def test_a_sensitivity_run_searches_the_same_supernet_in_another_way_with_as_many_subnets(profile):
    runs, glora = sensitivity("gratings", profile), Run("vtab1k", "gratings", "glora", profile)
    assert len({run.id for run in runs}) == len(runs) == 6
    assert {run.supernet.state_folder for run in runs} == {glora.supernet.state_folder}
    for run in runs:
        changed = {name for name, value in run.profile.evolution.items() if value != profile.evolution[name]}
        assert changed, run.label
        scored = run.profile.population * (1 + run.profile.generations)
        assert run.label == "generations-3x" or scored == profile.population * (1 + profile.generations)


def test_the_oracle_says_that_it_selected_on_test_images(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "CACHE", tmp_path)
    random, oracle = (execute(run) for run in controls("gratings", PROFILE) if run.method in ("glora_random", "glora_oracle"))
    assert (random.selected_on, oracle.selected_on) == ("val", "test (oracle)")
    scores = [value for generation in oracle.history["search"] for value in generation["test"]]
    assert oracle.metrics["test"] == max(scores)
    assert oracle.cost["search_images"] >= oracle.metrics["n_test"] * PROFILE.population  # the random start is scored whole
    assert "test" not in random.history["search"][0]


def test_what_was_found_is_trained_once_more_from_the_backbone_and_both_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "CACHE", tmp_path)
    found = execute(Run("vtab1k", "gratings", "glora", PROFILE))
    (run,) = (run for run in controls("gratings", PROFILE) if run.method == "glora_retrained")
    again = execute(run)
    assert again.config == found.config
    assert again.history["train"] == found.history["train"]  # one supernet's
    assert {split: again.metrics[f"inherited_{split}"] for split in ("val", "test")} == {
        split: found.metrics[split] for split in ("val", "test")
    }
    task = gl.load_task("gratings", PROFILE)
    model = gl.load_backbone(PROFILE.backbone, classes=task.classes, image_size=PROFILE.image_size, weights=PROFILE.weights)
    torch.manual_seed(0)
    net = gl.adapt(model, rank=PROFILE.rank, scale_broadcast=PROFILE.scale_broadcast).use(from_json(found.config))
    history = gl.train(net, task.train, PROFILE, seed=0)
    assert [epoch["loss"] for epoch in again.history["retrain"]] == [epoch["loss"] for epoch in history]
    assert again.metrics["test"] == gl.accuracy(gl.fuse(net), task.test)
    assert again.cost["seconds_train"] == sum(e["seconds"] for part in ("train", "retrain") for e in again.history[part])


def test_labels_of_rates_are_the_shortest_that_tell_them_apart():
    numbers = [3e-3, 2e-4, 1.6e-4, 1e-3, 0.00010000000000000002, 0.1 + 0.2, 1.0, 12.5]
    texts = [exactly(number) for number in numbers]
    assert texts[:4] == ["3e-03", "2e-04", "1.6e-04", "1e-03"]
    assert [float(text) for text in texts] == numbers
    close = replace(CPU, rates={"lora": (1.6e-4, 2e-4)})
    assert len({run.id for run in rates("gratings", close)}) == 3
