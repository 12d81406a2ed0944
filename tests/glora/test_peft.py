"""Hugging Face's peft as an independent implementation, on everything that it can express."""

import itertools

import peft
import pytest
import torch
from fixtures.formula import randomise
from torch import nn

from glora_lib.glora.adapt import adapt
from glora_lib.glora.model import fuse
from glora_lib.glora.space import Choice

OURS = {"lora": "lora4", "constant": "scalar", "vector": "vector", "none": "none"}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def copy_path(path: nn.Module, form: str, layer: nn.Module, tensor: str) -> None:
    """Copy what peft stores for one support tensor into our shared storage."""
    if form == "lora":
        getattr(layer, f"{tensor}d").copy_(path.Xd)
        getattr(layer, f"{tensor}u").copy_(path.Xu)
    elif form != "none" and tensor in "ABC":
        getattr(layer, f"{tensor}d")[: len(path.X), :1] = path.X.reshape(-1, 1)
    elif form != "none":
        getattr(layer, tensor)[: len(path.X)] = path.X


@pytest.mark.parametrize(
    ("ab", "c", "de"),
    list(itertools.product(["lora", "vector", "constant", "none"], ["lora", "vector", "none"], ["vector", "constant", "none"])),
)
@torch.no_grad()
def test_glora_agrees_on_the_36_choices_that_peft_can_express(ab, c, de):
    """Peft ties A to B and D to E, so 4 * 3 * 3 of our 432 choices exist there."""
    config = peft.GloraConfig(r=4, target_modules=["0", "2"], config_A_B=ab, config_C=c, config_D_E=de)
    theirs = peft.get_peft_model(mlp(), config).double()
    net = adapt(mlp(), rank=4, train=())
    generator = torch.Generator().manual_seed(1)
    for name in net.layer_names:
        layer, other = net.layer(name), theirs.base_model.model.get_submodule(name)
        for tensor, form in zip("ABCDE", (ab, ab, c, de, de), strict=True):
            path = getattr(other, f"glora_{tensor}")["default"]
            randomise(path, generator)
            copy_path(path, form, layer, tensor)
    net.use(dict.fromkeys(net.layer_names, Choice(OURS[ab], OURS[ab], OURS[c], OURS[de], OURS[de])))
    x = torch.randn(7, 6, dtype=torch.float64)
    expected = theirs(x)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(fuse(net)(x), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(fuse(net)(x), theirs.merge_and_unload()(x), rtol=0, atol=1e-10)
    assert (ab, c, de) == ("none", "none", "none") or (expected - mlp()(x)).abs().max() > 1e-3


@torch.no_grad()
def test_lora_is_the_point_of_glora_where_only_b_is_lora():
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["0", "2"])  # so that the scale alpha / r is 1
    theirs = peft.get_peft_model(mlp(), config).double()
    net = adapt(mlp(), rank=4, train=())
    net.use(dict.fromkeys(net.layer_names, Choice(B="lora4")))
    generator = torch.Generator().manual_seed(1)
    for name in net.layer_names:
        layer, other = net.layer(name), theirs.base_model.model.get_submodule(name)
        for path in (other.lora_A, other.lora_B):
            randomise(path, generator)
        layer.Bu.copy_(other.lora_A["default"].weight)
        layer.Bd.copy_(other.lora_B["default"].weight)
    x = torch.randn(7, 6, dtype=torch.float64)
    assert (theirs(x) - mlp()(x)).abs().max() > 1e-3
    torch.testing.assert_close(net(x), theirs(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(fuse(net)(x), theirs(x), rtol=0, atol=1e-10)
