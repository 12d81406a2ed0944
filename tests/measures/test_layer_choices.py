"""What configurations choose, against random ones."""

import random

import pytest

from glora_lib.glora.space import Choice, Space
from glora_lib.measures import layer_choices
from glora_lib.measures.layer_choices import frequencies, kind, parameters_by_kind, random_parameters_by_kind

SHAPES = {
    "blocks.0.attn.qkv": (30, 10),
    "blocks.0.mlp.fc1": (40, 10),
    "blocks.1.attn.qkv": (30, 10),
    "blocks.1.mlp.fc1": (40, 10),
}
SPACE = Space(SHAPES, (4, 2))


def test_a_layer_s_kind_is_its_place_in_the_block():
    assert kind("blocks.11.attn.qkv") == "attn.qkv"


def test_parameters_by_kind_add_up_to_the_configuration_s():
    config = SPACE.sample(random.Random(0))
    by_kind = parameters_by_kind(config, SHAPES, SPACE)
    assert set(by_kind) == {"attn.qkv", "mlp.fc1"}
    assert sum(by_kind.values()) == SPACE.parameters(config, SHAPES)
    only = dict.fromkeys(SHAPES, Choice()) | {"blocks.1.mlp.fc1": Choice(B="lora2")}
    assert parameters_by_kind(only, SHAPES, SPACE) == {"attn.qkv": 0, "mlp.fc1": 2 * (40 + 10)}


def test_the_random_range_holds_the_exact_mean():
    table = random_parameters_by_kind(SHAPES, SPACE, draws=2000).set_index("kind")
    lora = (4 + 2) / 5  # mean rank of A or B; C has one form less
    exact = 2 * (2 * (lora * (30 + 10) + (30 + 1) / 5) + (6 * 11 + 10) / 4 + 2 * (30 + 1) / 3)
    assert table.loc["attn.qkv", "mean"] == pytest.approx(exact, rel=0.03)
    assert table.loc["attn.qkv", "low"] < exact < table.loc["attn.qkv", "high"]


def test_uniform_draws_lie_inside_and_a_preference_outside():
    rng = random.Random(1)
    fair = frequencies([SPACE.sample(rng) for _ in range(200)], SPACE)
    assert fair.groupby("tensor")["share"].sum().tolist() == pytest.approx([1] * 5)
    assert fair["outside"].sum() <= 4
    assert set(fair["n"]) == {800}
    biased = frequencies([SPACE.uniform(Choice(A="vector"))] * 5, SPACE).set_index(["tensor", "form"])
    assert biased.loc[("A", "vector"), "share"] == 1
    assert biased["outside"].all()


def test_agreement_is_the_share_of_equal_genes():
    first = {"a": Choice("lora2", "none", "none", "vector", "scalar"), "b": Choice()}
    second = {"a": Choice("lora2", "vector", "none", "vector", "none"), "b": Choice()}
    assert layer_choices.agreement(first, second) == layer_choices.agreement(second, first) == 8 / 10
