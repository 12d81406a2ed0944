"""The experiment on layers that are not plain linear: which runs, one of them whole, and its adapter on disk."""

import random

import pytest
import timm
import torch

from glora_lib import METHODS, Space, fuse, load_adapter, restore, save_adapter
from glora_lib.measures.kinds import as_after_training, gap
from glora_lib.runs import layers
from glora_lib.runs.grid import execute
from glora_lib.runs.profiles import PROFILES


@pytest.fixture
def states(tmp_path, monkeypatch):
    from glora_lib.runs import run

    monkeypatch.setattr(run, "CACHE", tmp_path)


def test_three_tasks_have_every_seed_and_the_others_one():
    runs = layers.layers(PROFILES["cpu"])
    rows = 3 * 3 * 5 + 3 * 5 + 3  # five rows, and normalisations once on three tasks
    assert len({run.id for run in runs}) == len(runs) == rows
    assert {run.label or run.method for run in runs} == {*layers.METHODS, "glora_conv", "glora_conv_norm"}
    assert len({run.task for run in runs if run.seed == 2}) == 3
    assert {run.recipe.backbone for run in runs} == {"efficientnet_lite0_imagenet1k"}
    paper = layers.layers(PROFILES["paper"])[-1]
    assert paper.recipe.backbone.startswith("swin_base")
    assert paper.recipe.options == {"layers": ["linear", "norm"]}


def test_settings_of_other_experiments_do_not_know_of_it():
    assert "layers" not in PROFILES["cpu"].settings()


@pytest.mark.parametrize("label", ["lora", "bitfit", "glora_conv_norm"])
def test_a_run_is_one_record(states, label):
    record = execute(next(run for run in layers.layers(PROFILES["smoke"]) if label in (run.label, run.method)))
    assert record.method == label
    assert record.metrics["n_test"] == 64
    assert record.cost["head"] == 257 * 4
    if label == "glora_conv_norm":
        assert set(record.config) == {name for name in record.config if "conv" in name or "bn" in name}
        gained = {name for name, choice in record.config.items() if choice["C"] != "none" or choice["E"] != "none"}
        assert (record.cost["merged"] > 0) == bool({name for name in gained if "bn" not in name})
        assert record.settings["options"] == {"layers": ["conv", "norm"]}


def test_recipes_differ_in_the_rate_alone():
    runs = layers.recipes(PROFILES["cpu"])
    assert {run.label for run in runs} == {
        f"{row}-{rate:g}" for row in ("full", "bitfit", "lora", "glora_conv") for rate in (1e-3, 3e-3)
    }
    for run in runs:
        assert run.recipe.learning_rate == run.recipe.head_learning_rate == float(run.label.rpartition("-")[2])


@torch.no_grad()
def test_an_adapter_of_convolutions_and_norms_comes_back(tmp_path):
    plain = timm.create_model("test_efficientnet", num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    net = METHODS["glora"](timm.create_model("test_efficientnet", num_classes=3).eval(), rank=2, layers=["conv", "norm"])
    net.model.load_state_dict(net.model.state_dict())
    plain = fuse(net.use(dict.fromkeys(net.layer_names, type(net.config[net.layer_names[0]])())))
    as_after_training(net).use(Space(net.layer_names, (2,), net.kinds).sample(random.Random(0))).eval()
    path = save_adapter(net, tmp_path / "conv", backbone="test", options={"rank": 2, "layers": ["conv", "norm"]})
    again = restore(plain, path)
    assert again.config == net.config
    assert gap(again.eval(), net, images) == 0
    other = METHODS["glora"](plain, rank=2, layers=["conv", "norm"])
    assert load_adapter(other, path) == net.config
    assert gap(other.eval(), net, images) == 0
    assert gap(fuse(other), net, images) < 1e-5
