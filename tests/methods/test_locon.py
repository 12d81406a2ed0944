"""LoRA on convolutions: LyCORIS's change of the kernel, GLoRA's point, fusion, and what a ConvNet's head is."""

import pytest
import timm
import torch
from lycoris.modules.locon import LoConModule
from torch import nn

from glora_lib.glora.conv import GLoRAConv2d
from glora_lib.glora.model import fuse
from glora_lib.glora.space import Choice
from glora_lib.methods import METHODS
from glora_lib.methods.locon import LoConv2d

CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 1, "bias": False},
    {"kernel_size": (3, 2), "stride": 2, "groups": 2},
    {"kernel_size": 3, "groups": 4, "bias": False},
]


@pytest.fixture(params=CONVS, ids=str)
def ours(request):
    layer = LoConv2d(nn.Conv2d(4, 8, **request.param), rank=3, scale=0.5)
    nn.init.normal_(layer.up)
    return layer.double()


@torch.no_grad()
def test_changes_the_kernel_as_lycoris_does(ours):
    theirs = LoConModule("layer", ours.conv, lora_dim=3, alpha=1.5).double()  # scale: alpha / rank
    theirs.lora_down.weight.copy_(ours.down.view_as(theirs.lora_down.weight))
    theirs.lora_up.weight.copy_(ours.up.view_as(theirs.lora_up.weight))
    delta = theirs.get_diff_weight()[0].reshape_as(ours.conv.weight)
    torch.testing.assert_close(ours.weight - ours.conv.weight, delta, rtol=0, atol=1e-12)
    assert delta.abs().max() > 0.1


@torch.no_grad()
def test_is_a_point_of_glora_on_the_same_convolution_and_fuses_exactly(ours):
    point = GLoRAConv2d(ours.conv, rank=3).use(Choice(B="lora3"))
    point.Bd.copy_(ours.scale * ours.up)
    point.Bu.copy_(ours.down)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    for same in (point, ours.fuse(), point.fuse()):
        torch.testing.assert_close(same(x), ours(x), rtol=0, atol=1e-12)
    assert type(ours.fuse()) is nn.Conv2d


def test_a_convnet_is_adapted_but_for_its_head():
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = plain(x)
    net = METHODS["lora"](plain, rank=2, placement="conv")
    assert torch.equal(net(x), expected)  # `up` starts at zero
    layers = [module for module in net.modules() if isinstance(module, LoConv2d)]
    assert len(layers) == 49
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {"classifier.weight", "classifier.bias"} == {
        name for name in trained if name.rpartition(".")[2] not in ("up", "down")
    }
    by_hand = sum(2 * (len(layer.conv.weight) + layer.conv.weight[0].numel()) for layer in layers)
    assert sum(p.numel() for name, p in net.named_parameters() if p.requires_grad and "classifier" not in name) == by_hand
    for layer in layers:
        nn.init.normal_(layer.up, std=0.01)
    torch.testing.assert_close(fuse(net)(x), net(x), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_adapted_is_named():
    with pytest.raises(ValueError, match="rank must be at least 1, not 0"):
        METHODS["lora"](timm.create_model("test_vit", num_classes=3), rank=0, placement="conv")
    with pytest.raises(ValueError, match="no convolution to adapt inside this Sequential"):
        METHODS["lora"](nn.Sequential(nn.Linear(2, 2)), placement="conv")
