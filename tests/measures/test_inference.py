"""Inference: operations against hand counts, interleaved timing, storage, and the record. No test asserts a time."""

import copy

import pandas as pd
import pytest
import timm
import torch
from torch import nn

import glora_lib as gl
from glora_lib.measures import inference
from glora_lib.measures.inference import flops
from glora_lib.measures.storage import storage
from glora_lib.runs import paths
from glora_lib.training.timing import throughput

SMOKE = gl.PROFILES["smoke"]
COUNTED = ("base", "vpt_deep", "adapter", "adaptformer", "lora fused", "glora fused")


pytestmark = pytest.mark.usefixtures("one_thread")


class OnPixels(nn.Sequential):
    """Takes an image as (batch, pixels, 3): one token a pixel."""

    def forward(self, image):
        return super().forward(image.flatten(2).mT)


def tiny() -> nn.Module:
    """The smoke profile's backbone: random weights, 32 pixels."""
    return gl.load_backbone(SMOKE.backbone, classes=4, image_size=32, weights="random")


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    """Every model that is measured, of the tiny backbone."""
    return inference.variants(tiny, ranks=(4, 2))


@pytest.fixture(scope="module")
def large() -> dict[str, int]:
    """Multiply-adds of some models on ViT-B/16, counted without weights."""
    with torch.device("meta"):
        base = gl.load_backbone("vit_base_patch16_224", classes=10, weights="random")
        models = inference.variants(lambda: copy.deepcopy(base))
    return {name: flops(models[name], 224) // 2 for name in COUNTED}


# operations


def test_a_multiply_add_of_a_linear_layer_counts_twice():
    assert flops(OnPixels(nn.Linear(3, 5)), 4) == 2 * 16 * 3 * 5


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_counted_whichever_way_it_is_computed(fused):
    d, n = 12, 16
    attention = timm.layers.Attention(d, num_heads=3, qkv_bias=True)
    attention.fused_attn = fused
    linears = n * (3 * d + d * 3 * d + d * d)  # an embedding, the fused qkv and the projection
    products = 2 * n * n * d  # queries with keys, weights with values
    assert flops(OnPixels(nn.Linear(3, d), attention), 4) == 2 * (linears + products)
    assert attention.fused_attn is fused  # the model itself stays as it was


def test_the_base_is_counted_in_full(large):
    d, n = 768, 197
    block = n * 12 * d * d + 2 * n * n * d
    assert large["base"] == 196 * 3 * 256 * d + 12 * block + 10 * d


def test_the_paper_counts_60_prompts_as_multiply_adds(large):
    d, short, long = 768, 197, 257
    by_hand = 12 * (60 * 12 * d * d + 2 * d * (long**2 - short**2))
    assert large["vpt_deep"] - large["base"] == by_hand
    assert by_hand / 1e9 == pytest.approx(5.598, abs=5e-4)


@pytest.mark.parametrize("method", ["adapter", "adaptformer"])
def test_adapters_add_what_the_paper_says(large, method):
    extra = large[method] - large["base"]
    assert extra == 12 * 2 * 768 * 8 * 197
    assert extra / 1e9 == pytest.approx(0.029, abs=5e-4)


def test_fused_models_and_copies_have_the_operations_of_the_base(large, models):
    small = {name: flops(model, 32) for name, model in models.items()}
    for counts, number in ((large, 2), (small, 16)):
        same = [name for name in counts if inference.kind(name) in ("fused", "copy")]
        assert len(same) == number
        assert {counts[name] for name in same} == {counts["base"]}


def test_what_cannot_be_fused_is_not_among_the_fused(models):
    unfused = {name for name in models if inference.kind(name) == "unfused"}
    assert {name for name in unfused if f"{name} fused" not in models} == {
        *("vpt_shallow", "vpt_deep", "adapter", "adaptformer", "noah")
    }
    assert not any(model.training for model in models.values())


def test_no_two_models_share_memory(models):
    owners = [
        p.untyped_storage().data_ptr()
        for model in models.values()
        for p in {p.data_ptr(): p for p in model.parameters()}.values()
    ]
    assert len(owners) == len(set(owners))


# throughput


class Watched(nn.Module):
    """Writes down its name and the size of each batch that it sees."""

    def __init__(self, name: str, seen: list):
        super().__init__()
        self.weight, self.name, self.seen = nn.Parameter(torch.zeros(1)), name, seen

    def forward(self, images):
        self.seen.append((self.name, len(images)))
        return images * self.weight


@pytest.fixture
def watched() -> tuple[pd.DataFrame, list]:
    """Three models timed for four rounds at batches of 2 and 4: the table, and the calls in their order."""
    seen = []
    models = {name: Watched(name, seen) for name in ("base", "one", "two")}
    return throughput(models, 2, batch_sizes=(2, 4), rounds=4, seed=1), seen


def test_every_round_visits_every_model_once_for_each_batch_size(watched):
    table, _ = watched
    assert list(table.columns) == ["round", "batch_size", "model", "images_per_second", "ratio"]
    assert set(table.groupby(["round", "batch_size"])["model"].apply(sorted).map(tuple)) == {("base", "one", "two")}
    assert sorted(set(table["round"])) == [1, 2, 3, 4]


def test_models_are_interleaved_in_an_order_that_changes(watched):
    table, seen = watched
    orders = table.groupby(["round", "batch_size"], sort=False)["model"].apply(tuple)
    assert len(set(orders)) > 1
    visits = [name for (name, _), (before, _) in zip(seen[1:], seen, strict=False) if name != before]
    assert len(visits) >= 5 * 2 * 2  # the model changes at least twice a round and batch size, the warm-up included
    calls = {2: 1 + 2, 4: 1 + 1}  # one that is not timed, and four images
    assert len(seen) == 5 * 3 * sum(calls.values())
    assert {size for _, size in seen} == {2, 4}


def test_the_order_depends_on_the_seed_alone(watched):
    again = throughput({name: Watched(name, []) for name in ("base", "one", "two")}, 2, (2, 4), rounds=4, seed=1)
    assert again["model"].tolist() == watched[0]["model"].tolist()


def test_ratios_are_taken_within_a_round(watched):
    for _, visits in watched[0].groupby(["round", "batch_size"]):
        speeds = visits.set_index("model")["images_per_second"]
        expected = speeds / speeds["base"]
        assert visits.set_index("model")["ratio"].to_dict() == pytest.approx(expected.to_dict())


def test_a_drift_that_slows_every_model_alike_leaves_ratios_alone():
    rows = [(r, 1, model, 100 / r * factor, factor) for r in range(1, 6) for model, factor in [("base", 1), ("linear", 0.9)]]
    table = inference.summary(pd.DataFrame(rows, columns=["round", "batch_size", "model", "images_per_second", "ratio"]))
    row = table.set_index("model").loc["linear"]
    assert (row["ratio"], row["low"], row["high"], row["n"], row["kind"]) == (0.9, 0.9, 0.9, 5, "copy")


def test_noise_is_the_spread_of_the_copies():
    rows = [(r, 1, model, 1.0, value) for r, value in enumerate((0.9, 1.0, 1.1)) for model in ("linear", "full")]
    rows.append((0, 1, "glora", 1.0, 0.1))
    noise = inference.noise(pd.DataFrame(rows, columns=["round", "batch_size", "model", "images_per_second", "ratio"]))
    assert noise.loc[1, "n"] == 6
    low, high, median_low, median_high = noise.loc[1, ["low", "high", "median_low", "median_high"]]
    assert 0.9 <= low < high <= 1.1
    assert 0.9 <= median_low <= 1.0 <= median_high <= 1.1


def test_timing_needs_a_base_and_a_round():
    with pytest.raises(ValueError, match='"base"'):
        throughput({"one": Watched("one", [])}, 2)
    with pytest.raises(ValueError, match="0 rounds"):
        throughput({"base": Watched("base", [])}, 2, rounds=0)


# storage


def test_storage_measures_files_and_every_way_to_change_the_task():
    net = gl.adapt(tiny(), rank=4)
    kept = storage(net, tasks=2, repeats=3, ranks=(4, 2))
    weights = 4 * sum(p.numel() for p in tiny().parameters())
    assert weights < kept["bytes"]["backbone"] < weights + 50_000  # names and shapes come on top
    assert kept["bytes"]["fused"] == [kept["bytes"]["backbone"]] * 2
    assert all(0 < size < weights for size in kept["bytes"]["adapters"])
    assert {way: len(values) for way, values in kept["seconds"].items()} == dict.fromkeys(
        ("fused", "adapter", "adapter, fused", "check"), 3
    )


# the record


@pytest.fixture
def profile(monkeypatch, tmp_path):
    """The smoke profile with its records in a temporary folder."""
    monkeypatch.setattr("glora_lib.runs.record.ROOT", tmp_path)
    return SMOKE


@pytest.mark.slow
def test_a_record_is_measured_once(profile, monkeypatch):
    record = inference.recorded(profile, rounds=1)
    visits = pd.DataFrame(record.history["throughput"])
    assert set(inference.summary(visits)["n"]) == {1}
    assert record.metrics["ratio"].keys() >= {"vpt_deep/1", "glora fused/16"}
    monkeypatch.setattr(inference, "measure", lambda *_: pytest.fail("measured again"))
    assert inference.recorded(profile, rounds=1) == record
    with pytest.raises(gl.RecordError, match='compute="missing"'):
        inference.recorded(profile, "none", rounds=2)  # other settings


def test_a_missing_record_is_an_error_where_nothing_may_be_computed(profile):
    with pytest.raises(gl.RecordError, match="random_images--all--smoke--s0"):
        inference.recorded(profile, "none")
    with pytest.raises(ValueError, match="none, missing, all"):
        inference.recorded(profile, "maybe")


# what the paper reports


def test_table_4_as_printed_with_its_ratios():
    table = inference.reported().set_index("model")
    assert (table.loc["vpt_deep", "extra_params"], table.loc["vpt_deep", "extra_flops"]) == (0.55, 5.6)
    assert table.loc["adapter", "ratio_bs1"] == pytest.approx(70.9 / 91.5)
    assert table.loc["glora fused", "throughput_bs16"] == 539.6
    assert len(pd.read_csv(paths.REPORTED / "table4_inference.csv")) == 6 * 5
