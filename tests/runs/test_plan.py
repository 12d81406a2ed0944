"""The gpu profile's runs in their order, and its rows."""

from collections import Counter

import pytest

from glora_lib.data import unavailable
from glora_lib.glora.space import Space, stored
from glora_lib.runs import plan as plan_module
from glora_lib.runs.plan import plan, run_of, seeds_of
from glora_lib.runs.profiles import CPU, GPU, PAPER, PROFILES, SMOKE


@pytest.fixture(autouse=True)
def all_data(monkeypatch):
    """As if every task's data were here."""
    monkeypatch.setattr(plan_module, "unavailable", lambda task, profile: "")


def test_the_schedule_is_the_paper_s():
    names = (
        "epochs",
        "batch_size",
        "ranks",
        "population",
        "generations",
        "mutations",
        "crossovers",
        "weight_decay",
        "drop_path",
    )
    assert [getattr(GPU, name) for name in names] == [getattr(PAPER, name) for name in names]
    assert GPU.for_method("lora").epochs == PAPER.for_method("lora").epochs == 100
    labels = ("glora", *(label for label in GPU.rows if label.startswith("glora")))
    rates = {GPU.row(label)[1].for_method("glora").learning_rate for label in labels}
    assert rates == {5e-4, 1e-4}


def test_every_run_is_there_once_and_first_rows_come_first():
    runs = plan(GPU)
    assert max(Counter(run.path for run in runs).values()) == 1
    tables = [(run.label or run.method, run.seed) for run in runs if run.experiment == "vtab1k"]
    order = list(dict.fromkeys(tables))
    assert order[:4] == [("linear", 0), ("linear-0.01", 0), ("lora_everywhere", 0), ("glora_divided", 0)]
    assert [seed for _, seed in order] == sorted(seed for _, seed in order)
    assert Counter(tables)["glora-0.0001", 2] == Counter(tables)["linear", 0] == len(GPU.tasks)
    assert not {("linear", 1), ("linear-0.01", 1)} & set(tables)


@pytest.mark.parametrize("profile", [SMOKE, CPU, PAPER], ids=lambda profile: profile.name)
def test_a_profile_without_an_order_is_refused(profile):
    with pytest.raises(ValueError, match=f"the profile {profile.name} has no order of runs .*valid: gpu.*leave --minutes out"):
        plan(profile)


def test_controls_of_a_trained_supernet_follow_its_row():
    names = list(dict.fromkeys(run.label or run.method for run in plan(GPU)))
    place = names.index("glora_divided")
    assert names[place + 1 : place + 3] == ["glora_random", "glora_largest"]
    assert names.index("lora_long") > names.index("fact_tk")


def test_without_a_data_folder_what_packages_ship_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(plan_module, "unavailable", unavailable)
    found = {run.task for run in plan(GPU)}
    assert "mnist_5k" in found
    assert not found & {"pacs", "cifar10", "cifar", "colon_cells_4"}


def test_a_row_of_glora_changes_the_profile_and_its_controls_share_the_supernet():
    method, divided = GPU.row("glora_divided-0.0001")
    assert (method, divided.scale_broadcast, divided.learning_rate, divided.head_learning_rate) == ("glora", True, 1e-4, 1e-4)
    runs = {run.label or run.method: run for run in plan(GPU) if run.task == "cifar10" and run.seed == 0}
    searched = runs["glora_divided"].supernet.state_folder
    assert runs["glora_random"].supernet.state_folder == runs["glora_largest"].supernet.state_folder == searched
    assert runs["glora"].supernet.state_folder != searched
    assert runs["lora_long"].recipe.options == runs["lora_everywhere"].recipe.options
    assert runs["lora_long"].recipe.epochs == 588  # 500, and a third of 1,050 x 200 / 800


def test_the_matched_rank_is_the_nearest_to_the_mean_subnet_of_a_vit_s():
    shapes = {"qkv": (1152, 384), "proj": (384, 384), "fc1": (1536, 384), "fc2": (384, 1536)}
    choices = Space(shapes, GPU.ranks).choices()
    mean = sum(stored(choice, *shape) for shape in shapes.values() for choice in choices) / len(choices)
    per_rank = sum(d1 + d2 for d2, d1 in shapes.values())
    assert round(mean / per_rank) == GPU.rows["lora_matched"][1]["options"]["rank"]


def test_the_curve_takes_the_main_table_s_run_where_it_is_a_point():
    labels = {run.label for run in plan(GPU) if run.experiment == "budget"}
    assert {"lora_everywhere-500", "glora_divided-100", "repadapter-14"} <= labels
    assert not {"lora_everywhere-100", "repadapter-100", "glora_divided-500"} & labels
    short = next(run for run in plan(GPU) if run.label == "lora_everywhere-14").recipe
    assert (short.epochs, short.warmup_epochs) == (14, 2)


def test_the_label_of_a_row_names_its_record_and_a_method_s_own_row_needs_none():
    assert run_of("vtab1k", "cifar10", "lora", GPU).id == "cifar10--lora--gpu--s0"
    assert run_of("vtab1k", "cifar10", "lora_matched", GPU).id == "cifar10--lora_matched--gpu--s0"
    assert seeds_of(GPU, "glora-0.0001") == seeds_of(GPU, "glora_divided") == (0, 1, 2)
    assert seeds_of(GPU, "bitfit") == (0,)


def test_an_unknown_profile_names_the_known():
    with pytest.raises(KeyError, match="no profile 'cpuu'; valid: smoke, cpu, gpu, paper"):
        PROFILES["cpuu"]
