"""The search space: how many choices there are, how they are drawn, changed, counted, checked and written down."""

import json
import random
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from glora_lib.glora.space import TENSORS, Choice, Space, forms, from_json, lora_rank, to_json
from glora_lib.runs.paths import ROOT

VIT_B = {
    f"blocks.{block}.{name}": shape
    for block in range(12)
    for name, shape in {
        "attn.qkv": (2304, 768),
        "attn.proj": (768, 768),
        "mlp.fc1": (3072, 768),
        "mlp.fc2": (768, 3072),
    }.items()
}
LAYERS = ("first", "second", "third")
SHAPES = {"first": (3, 5), "second": (4, 4), "third": (1, 7)}


@pytest.mark.parametrize(("ranks", "per_layer"), [((8,), 432), ((8, 4), 900), ((8, 4, 2), 6 * 6 * 5 * 9)])
def test_number_of_choices_is_a_power_and_not_a_product(ranks, per_layer):
    space = Space(VIT_B, ranks)
    assert space.per_layer == per_layer == len(set(space.choices()))
    assert space.count() == per_layer**48
    assert isinstance(space.count(), int)


def test_the_paper_s_432_times_48_is_not_the_count():
    assert Space(VIT_B).count() == 432**48 != 432 * 48
    assert len(str(Space(VIT_B).count())) == 127  # 10^126.5


@pytest.mark.parametrize("rng", [random.Random(0), np.random.default_rng(0)], ids=["random.Random", "numpy.Generator"])
def test_sampling_is_uniform_over_the_forms_of_every_tensor(rng):
    space = Space(LAYERS, (8, 4))
    drawn = [choice for _ in range(4000) for choice in space.sample(rng).values()]
    for tensor in TENSORS:
        counts = Counter(getattr(choice, tensor) for choice in drawn)
        options = forms(tensor, (8, 4))
        assert set(counts) == set(options)
        expected = len(drawn) / len(options)
        assert sum((counts[form] - expected) ** 2 / expected for form in options) < 25  # chi squared, at most 4 degrees


def test_layers_and_tensors_are_drawn_independently():
    rng, space = random.Random(1), Space(("a", "b"))
    pairs = Counter((config["a"].A, config["b"].D) for config in (space.sample(rng) for _ in range(6000)))
    assert len(pairs) == 4 * 3
    assert all(abs(count - 500) < 120 for count in pairs.values())


def test_the_same_seed_draws_the_same_configurations():
    space = Space(LAYERS)
    assert [space.sample(random.Random(3)) for _ in range(2)] == [space.sample(random.Random(3))] * 2
    assert space.sample(random.Random(3)) != space.sample(random.Random(4))


@pytest.mark.parametrize("ranks", [(8,), (8, 4)])
def test_encode_and_decode_are_inverse_and_one_to_one(ranks):
    space = Space(("one",), ranks)
    keys = [space.encode({"one": choice}) for choice in space.choices()]
    assert len(set(keys)) == space.count()
    assert [space.decode(key)["one"] for key in keys] == space.choices()
    wide, rng = Space(VIT_B, ranks), random.Random(0)
    config = wide.sample(rng)
    assert wide.decode(wide.encode(config)) == config
    assert wide.encode(dict(reversed(config.items()))) == wide.encode(config)  # the space's order counts, not the dict's


def test_json_holds_a_configuration_completely():
    config = Space(LAYERS, (8, 4)).sample(random.Random(0))
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_json_with_an_unknown_tensor_or_form_is_refused():
    with pytest.raises(ValueError, match=r"'first'.*'F'"):
        from_json({"first": {"A": "none", "F": "vector"}})
    with pytest.raises(ValueError, match="'lora' is no form of A"):
        from_json({"first": {"A": "lora"}})


def test_mutation_draws_every_gene_again_with_its_probability():
    space, rng = Space(VIT_B), random.Random(0)
    start = space.uniform(Choice("lora8", "lora8", "lora8", "vector", "vector"))
    changed = Counter()
    for _ in range(120):
        mutant = space.check(space.mutate(start, rng, 0.2))
        changed.update(
            tensor for name in VIT_B for tensor in TENSORS if getattr(mutant[name], tensor) != getattr(start[name], tensor)
        )
    genes = 120 * 48  # of one tensor; a draw may give the old form again, so a gene of n forms changes with 0.2 (1 - 1/n)
    for tensor, rate in {"A": 0.15, "B": 0.15, "C": 2 / 15, "D": 2 / 15, "E": 2 / 15}.items():
        assert abs(changed[tensor] / genes - rate) < 0.02  # more than four standard deviations


def test_mutation_with_probability_0_is_the_same_and_the_original_is_never_changed():
    space, rng = Space(LAYERS), random.Random(0)
    start = space.sample(rng)
    before = dict(start)
    assert space.mutate(start, rng, 0.0) == start
    assert any(space.mutate(start, rng, 1.0) != before for _ in range(3))
    assert start == before


def test_a_cross_takes_every_gene_from_either_parent_with_probability_one_half():
    space, rng = Space(VIT_B), random.Random(0)
    first = space.uniform(Choice("lora8", "vector", "lora8", "vector", "scalar"))
    second = space.uniform(Choice("none", "scalar", "vector", "none", "vector"))
    taken = Counter()
    for _ in range(50):
        for name, choice in space.cross(first, second, rng).items():
            for tensor in TENSORS:
                assert getattr(choice, tensor) in (getattr(first[name], tensor), getattr(second[name], tensor))
                taken[tensor] += getattr(choice, tensor) == getattr(first[name], tensor)
    assert all(abs(taken[tensor] / (50 * 48) - 0.5) < 0.05 for tensor in TENSORS)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [  # of a layer with d2 = 3 outputs and d1 = 5 inputs
        (Choice(), 0),
        (Choice(A="lora8"), 8 * (3 + 5)),
        (Choice(B="lora4"), 4 * (3 + 5)),
        (Choice(A="vector"), 3),
        (Choice(B="scalar"), 1),
        (Choice(C="lora8"), 8 * (5 + 1)),
        (Choice(C="vector"), 5),
        (Choice(D="vector"), 3),
        (Choice(E="scalar"), 1),
        (Choice("lora8", "vector", "none", "scalar", "vector"), 64 + 3 + 0 + 1 + 3),
    ],
)
def test_parameters_of_a_layer_against_counting_by_hand(choice, expected):
    assert Space(("layer",), (8, 4)).parameters({"layer": choice}, {"layer": (3, 5)}) == expected


def test_parameters_add_up_over_layers():
    config = {"first": Choice(A="vector"), "second": Choice(B="lora8"), "third": Choice(C="vector", E="vector")}
    assert Space(LAYERS).parameters(config, SHAPES) == 3 + 8 * 8 + (7 + 1)


@pytest.mark.parametrize(
    ("rank", "supernet", "mean"), [(2, 884_832, 308_824), (4, 1_603_776, 499_320), (8, 3_041_664, 880_312)]
)
def test_sizes_of_vit_b_s_supernet_and_of_the_mean_subnet(rank, supernet, mean):
    """Behaviour.md, B9: what is trained, and the exact mean over all subnets; neither is the paper's 0.29, 0.44 or 0.86 M."""
    space = Space(VIT_B, (rank,))
    largest = space.uniform(Choice(*[f"lora{rank}"] * 3, "vector", "vector"))
    assert space.parameters(largest, VIT_B) == supernet
    one = Space(("layer",), (rank,))
    total = sum(
        one.parameters({"layer": choice}, {"layer": shape}) for shape in list(VIT_B.values())[:4] for choice in one.choices()
    )
    assert round(Fraction(12 * total, one.per_layer)) == mean


def test_a_rank_that_the_space_does_not_have_names_the_valid_ones():
    space = Space(LAYERS, (8, 4))
    config = space.uniform(Choice()) | {"second": Choice(B="lora16")}
    with pytest.raises(ValueError, match=r"'lora16' for B of layer 'second'.*lora8, lora4, vector, scalar, none"):
        space.check(config)
    with pytest.raises(ValueError, match="lora16"):
        space.parameters(config, SHAPES)


def test_a_configuration_must_name_every_layer_and_no_other():
    space = Space(LAYERS)
    config = space.uniform(Choice())
    with pytest.raises(ValueError, match="unknown ones.*'fourth'"):
        space.check(config | {"fourth": Choice()})
    del config["second"]
    with pytest.raises(ValueError, match="lacks layers.*'second'"):
        space.check(config)


@pytest.mark.parametrize(
    "wrong", [{"C": "scalar"}, {"D": "lora8"}, {"E": "lora4"}, {"A": "lora"}, {"A": "lora0"}, {"B": "LoRA_8"}, {"B": "lora-8"}]
)
def test_a_form_that_eq_11_does_not_offer_is_refused_and_the_valid_ones_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong.values()))}.*valid: .*vector"):
        Choice(**wrong)


@pytest.mark.parametrize(
    ("form", "rank"), [("lora8", 8), ("lora16", 16), ("lora", 0), ("lora08", 0), ("vector", 0), ("none", 0)]
)
def test_rank_of_a_form(form, rank):
    assert lora_rank(form) == rank


@pytest.mark.parametrize(("names", "ranks"), [((), (8,)), (("a", "a"), (8,)), (("a",), ()), (("a",), (8, 8)), (("a",), (8, 0))])
def test_a_space_without_sense_is_refused(names, ranks):
    with pytest.raises(ValueError, match=r"layer|rank"):
        Space(names, ranks)


def test_space_and_search_need_no_torch():
    program = (
        "import sys, types; sys.modules['torch'] = None; package = types.ModuleType('glora_lib');"
        f"package.__path__ = [{str(ROOT / 'glora_lib')!r}]; sys.modules['glora_lib'] = package;"
        "import glora_lib.glora.search; from glora_lib.glora.space import Space; print(Space(['a']).count())"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "432\n"
