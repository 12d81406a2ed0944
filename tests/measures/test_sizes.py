"""Sizes: every reported count, each method's formula against a live model, and the means."""

import copy
import random
from functools import cache
from itertools import product

import pytest
import timm
import torch

from glora_lib.glora.space import Space
from glora_lib.measures import sizes
from glora_lib.measures.sizes import VIT_B, VIT_S, Size, counted, formula
from glora_lib.methods import METHODS, trainable_parameters

OPTIONS = {
    "lora": [{}, {"placement": "qv"}, {"placement": "qkv"}, {"rank": 3}],
    "vpt_shallow": [{}, {"tokens": 3}],
    "vpt_deep": [{}, {"tokens": 60}],
    "adapter": [{}, {"placement": "houlsby"}, {"width": 5}],
    "adaptformer": [{}, {"bias": False}, {"width": 64}],
    "noah": [{}, {"widths": (5, 10, 50, 100)}],
    "fact_tt": [{}, {"rank": 4}, {"rank": 8}],
    "fact_tk": [{}, {"rank": 32}],
    "repadapter": [{}, {"bias": False}, {"groups": 4, "width": 16}],
    "glora": [{}, {"rank": 4}, {"rank": 2}],
    "superlora_lora": [{}, {"r": 3, "groups": 4}, {"r": 3, "groups": 8, "shape": "fold"}],
    "superlora_lokr": [{}, {"r": None}],
    "superlora_lonkr": [{}, {"splits": 4, "side": 6}],
    "superlora_lorta": [{}, {"r": 8, "order": 5}, {"r": 8, "core": "identity"}],
}
CASES = [(method, options) for method in METHODS for options in OPTIONS.get(method, [{}])]
VITS = {
    "ViT-B/16": (VIT_B, "vit_base_patch16_224", {}),
    "ViT-S/14": (VIT_S, "vit_small_patch14_dinov2", {"img_size": 42}),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def made(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return timm.create_model(VITS[name][1], num_classes=10, **VITS[name][2])


def vit(name: str) -> torch.nn.Module:
    """Return a model without weights of a test's own."""
    return copy.deepcopy(made(name))


@pytest.mark.parametrize("row", sizes.table().to_dict("records"), ids=lambda row: f"{row['method']}-{row['reported']}")
def test_our_count_is_the_reported_one(row):
    assert row["ours"] == row["reported"]


def test_the_table_holds_every_count_of_the_papers():
    reported = {
        *(85_798_656, 102_912, 294_912, 156_768, 360_134, 68_985, 205_824, 243_869, 239_808, 221_184, 9_216),
        *(3_041_664, 1_603_776, 884_832, 880_312, 499_320, 308_824),
        *(14_155_776, 36_864),  # SuperLoRA
    }
    assert reported <= set(sizes.table().reported)
    assert set(sizes.table().method) == set(METHODS)


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
def test_the_formula_agrees_with_the_live_model(name, method, options):
    model = vit(name)
    backbone = sum(p.numel() for p in model.parameters())
    with torch.device("meta"):
        net = METHODS[method](model, **options)
        expected = formula(method, VITS[name][0], **options)
        if method == "glora":  # at first no support tensor is chosen
            expected = Size(expected.trained, 0, 0)
        assert counted(net, backbone) == expected


@pytest.mark.parametrize("name", VITS)
def test_a_subnet_of_glora_is_stored_as_counted(name):
    with torch.device("meta"):
        net = METHODS["glora"](vit(name), rank=8)
        config = Space(net.layer_names).sample(random.Random(0))
        assert net.shapes == VITS[name][0].shapes
        assert counted(net.use(config), 0).stored == formula("glora", VITS[name][0], config=config).stored > 0


@pytest.mark.parametrize("rank", [8, 4, 2])
def test_the_mean_subnet_is_that_of_the_live_layers(rank):
    with torch.device("meta"):
        net = METHODS["glora"](vit("ViT-B/16"), rank=rank)
    block = [net.layer(f"blocks.0.{name}") for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    choices = Space(net.layer_names, (rank,)).choices()
    total = sum(tensor.numel() for layer, choice in product(block, choices) for tensor in layer.use(choice).stored().values())
    assert round(12 * total / len(choices), 6) == round(sizes.mean_subnet(rank), 6)


def test_noah_s_published_subnets():
    found = [sizes.noah_subnet(VIT_B, *sums, 12) for sums in sizes.NOAH_SUBNETS]
    assert len(found) == 19
    assert (min(found), max(found)) == (287_278, 431_686)
    assert round(sizes.mean_noah(), 2) == 360_134.26


def test_a_subnet_of_noah_alone_trains_what_the_formula_says():
    """The subnet that NOAH publishes for Caltech101."""
    config = {
        "prompt": (5, 10, 1, 5, 10, 1, 10, 1, 10, 1, 10, 1),
        "lora": (1, 10, 10, 10, 5, 10, 10, 10, 5, 1, 10, 1),
        "adapter": (10, 1, 5, 10, 10, 1, 5, 5, 10, 1, 5, 10),
    }
    with torch.device("meta"):
        net = METHODS["noah"](vit("ViT-B/16"), config=config)
    assert trainable_parameters(net) == net.size(config) == formula("noah", config=config).stored == 426_313
    assert tuple(sum(widths) for widths in config.values()) in sizes.NOAH_SUBNETS


@pytest.mark.parametrize(("method", "ranks", "mean"), [("fact_tt", (4, 8, 16), 39_734), ("fact_tk", (16, 32), 68_985)])
def test_only_one_mix_of_ranks_has_fact_s_reported_mean(method, ranks, mean):
    mixes = (mix for mix in product(range(20), repeat=len(ranks)) if sum(mix) == 19)
    tasks = [dict(zip(ranks, mix, strict=True)) for mix in mixes]
    fitting = [mix for mix in tasks if round(sizes.mean_fact(method, mix)) == mean]
    assert fitting == [sizes.FACT_TT_TASKS if method == "fact_tt" else sizes.FACT_TK_TASKS]


def test_the_mean_head_of_the_19_tasks():
    assert sum(sizes.VTAB_CLASSES) == 940
    assert round(sizes.mean_head()) == 38_045


def test_the_head_is_left_out_and_shared_factors_count_once():
    model = timm.create_model("test_vit", num_classes=7)
    net = METHODS["fact_tk"](model, rank=4)
    trained = [p.numel() for p in net.parameters() if p.requires_grad]
    assert trainable_parameters(net) == sum(trained) - 7 * 65
    assert trainable_parameters(net) == 2 * 64 * 4 + 6 * 10 * 4 + 4**3
