"""Computing the last MLP for the class token alone changes nothing but the cost; what it cannot serve is left alone."""

import random

import pytest
import timm
import torch
import torch.nn.functional as F
from fixtures.vits import VITS, images, move, vit
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from glora_lib.glora.adapt import adapt
from glora_lib.glora.class_token import class_token_alone
from glora_lib.glora.space import Space

pytestmark = pytest.mark.usefixtures("one_thread")


def gradients(net: nn.Module, model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict, int]:
    """Return logits, gradients by name and operations of a step of `model`, which is `net` or the ViT in it."""
    net.zero_grad()
    torch.manual_seed(3)  # of drop path
    with FlopCounterMode(display=False) as counter:
        logits = model(x)
        F.cross_entropy(logits, torch.arange(4) % 3).backward()
    found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    return logits.detach(), found, counter.get_total_flops()


@pytest.mark.parametrize("name", VITS)
def test_values_and_gradients_are_those_of_all_tokens(name):
    net, x = move(adapt(vit(name, drop_path_rate=0.5), rank=4, train=("head", "norm"))).train(), images(name)
    cheaper = []
    for seed in range(4):
        net.use(Space(net.layer_names, (4, 2)).sample(random.Random(seed)))
        ours, whole = gradients(net, net, x), gradients(net, net.model, x)
        torch.testing.assert_close(ours[0], whole[0], rtol=1e-12, atol=1e-12)
        assert ours[1].keys() == whole[1].keys()
        for parameter in whole[1]:
            torch.testing.assert_close(ours[1][parameter], whole[1][parameter], rtol=1e-10, atol=1e-12)
        cheaper.append(ours[2] < whole[2])
    assert set(cheaper) == {name != "no class token, no qkv bias"}


def test_evaluation_costs_what_the_model_costs():
    net, x = adapt(vit()).eval(), images()
    with FlopCounterMode(display=False) as ours, torch.no_grad():
        net(x)
    with FlopCounterMode(display=False) as plain, torch.no_grad():
        vit()(x)
    assert ours.get_total_flops() == plain.get_total_flops()


def test_the_model_is_as_it_was_even_after_an_error():
    model = vit().train()

    def broken():
        with class_token_alone(model):
            assert model.forward_features(images()).shape[1] == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert model.forward_features(images()).shape[1] > 1
    assert "forward" not in vars(model.blocks[-1])


@pytest.mark.parametrize("change", ["checkpointed", "another block", "no ViT"])
def test_what_it_cannot_serve_is_left_alone(change):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)).double() if change == "no ViT" else vit()
    if change == "checkpointed":
        model.set_grad_checkpointing()
    if change == "another block":
        model.blocks[-1] = nn.Identity()
    expected = model(images())
    with class_token_alone(model):
        assert not any("forward" in vars(module) for module in model.modules())
        torch.testing.assert_close(model(images()), expected)


def test_a_class_derived_from_the_vit_and_methods_of_its_own_are_left_alone():
    """DeiT's distilled model reads a second token; so may whatever else overrides how the head is reached."""
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, img_size=32, depth=2).train()
    own = vit()
    own.forward_head = lambda x, pre_logits=False: own.head(x.mean(1))
    for model, x in ((distilled, torch.randn(2, 3, 32, 32)), (own, images())):
        expected = model(x)
        with class_token_alone(model):
            assert not any("forward" in vars(module) for module in model.modules())
            torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("place", ["blocks.5", "blocks.5.mlp.fc2", "norm"])
def test_whoever_watches_the_last_block_or_the_norm_sees_all_tokens(place):
    net, shapes = adapt(vit()).train(), []
    net.model.get_submodule(place).register_forward_hook(lambda module, args, output: shapes.append(output.shape[1]))
    net(images())
    assert shapes == [5]


def test_a_mask_is_passed_on():
    model = vit()
    mask = torch.zeros(4, 1, 5, 5, dtype=torch.float64)
    mask[..., 3:] = -torch.inf
    expected = model.forward_head(model.forward_features(images(), attn_mask=mask))
    with class_token_alone(model):
        assert model.forward_features(images(), attn_mask=mask).shape[1] == 1
        torch.testing.assert_close(model.forward_head(model.forward_features(images(), attn_mask=mask)), expected)
