"""Counts by kind of layer, against those written out and those of Swin-B in the paper."""

import pytest
import timm
import torch
from fixtures.llamas import tiny
from torch import nn

from glora_lib import Choice, adapt, fuse
from glora_lib.measures.kinds import as_after_training, by_kind, gap
from glora_lib.methods import attention


@pytest.mark.parametrize("gains", [True, False])
def test_both_variants_of_a_language_model(gains):
    table = by_kind(attention.glora(tiny(), rank=2, gain_bias=gains), (2,))
    shapes = 2 * [(16, 16), (8, 16), (8, 16), (16, 16)]
    found = table.iloc[0]
    assert found["layers"] == table.loc["all", "layers"] == 8
    assert found["choices"] == (432 if gains else 16)
    assert found["frozen"] == sum(d2 * d1 for d2, d1 in shapes)
    more = [2 * (d1 + 1) + 2 * d2 for d2, d1 in shapes] if gains else []
    assert found["trained"] == sum(2 * 2 * (d2 + d1) for d2, d1 in shapes) + sum(more)
    assert found["gained"] == (sum(d2 for d2, _ in shapes) if gains else 0)
    stored = sum(2 * (2 * (d2 + d1) + d2 + 1) / 4 for d2, d1 in shapes)  # LoRA, vector, scalar or none
    stored += sum((2 * (d1 + 1) + d1) / 3 + 2 * (d2 + 1) / 3 for d2, d1 in shapes) if gains else 0
    assert found["stored"] == pytest.approx(stored)


def test_convolutions_and_norms_are_rows_of_their_own():
    net = adapt(
        nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)), 2, layers=("conv", "norm"), train=()
    )
    table = by_kind(net, (2,))
    assert table["layers"].to_dict() == {"conv": 1, "norm": 1, "all": 2}
    assert table["choices"].to_dict()["norm"] == 81
    assert table.loc["conv", ["frozen", "gained"]].tolist() == [6 * 18, 6]
    assert table.loc["norm", ["frozen", "trained", "gained"]].tolist() == [12, 24, 0]
    assert table.loc["norm", "stored"] == pytest.approx(4 * (6 + 1) / 3)


def test_swin_b_s_reductions_gain_1792_biases():
    with torch.device("meta"):
        net = adapt(timm.create_model("swin_base_patch4_window7_224", num_classes=10), 8)
    table = by_kind(net, (8, 4))
    assert table.loc["linear", "gained"] == 1792
    assert table.loc["linear", "layers"] == 24 * 4 + 3


def test_a_moved_net_is_another_model_and_fuses_without_a_gap():
    model = tiny()
    tokens = torch.randint(0, 50, (2, 7))
    net = as_after_training(attention.glora(tiny(), rank=2), by=0.2)
    net.use(dict.fromkeys(net.layer_names, Choice("lora2", "lora2", "vector", "none", "vector")))
    assert gap(net, model, tokens) > 1e-2
    assert gap(fuse(net), net, tokens) < 1e-5
