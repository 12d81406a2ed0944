"""Blocks whose sums and norms are one operation have the blocks' values and gradients; other blocks stay as they are."""

import copy

import pytest
import timm
import torch
from torch import nn

from glora_lib.glora.class_token import class_token_alone
from glora_lib.methods import METHODS
from glora_lib.training.batch import autocast
from glora_lib.training.joined import Joined, join_blocks
from glora_lib.training.noise import replace_noise


def vit(**options) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3, img_size=32, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, dtype=torch.float64)


@pytest.mark.parametrize("options", [{}, {"init_values": 0.1}, {"global_pool": "avg"}, {"qk_norm": True}], ids=str)
def test_joined_blocks_have_the_values_and_gradients_of_the_blocks(options, images):
    model = vit(**options)
    joined = copy.deepcopy(model)
    assert isinstance(join_blocks(joined), Joined)
    assert joined.state_dict().keys() == model.state_dict().keys()
    for net in (model, joined):
        net(images).square().sum().backward()
    torch.testing.assert_close(joined(images), model(images), rtol=1e-12, atol=1e-12)
    for (name, one), (_, other) in zip(model.named_parameters(), joined.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-9, atol=1e-9, msg=name)


def test_masks_from_outside_drop_the_same_branches(images):
    model = vit(drop_path_rate=0.5, init_values=0.1).train()
    noise = replace_noise(model)
    model(images)
    assert len(noise) == 2 * (len(model.blocks) - 1)  # the first block drops nothing
    for part in noise:
        part.mask = part.draw(len(images), torch.Generator().manual_seed(id(part) % 1000))
    expected = model(images)
    join_blocks(model)
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.eval()(images), vit(drop_path_rate=0.5, init_values=0.1).eval()(images))


def test_stochastic_depth_that_is_drawn_at_once_drops_its_share():
    """Of each branch, and what is left is scaled, so that the mean is 1; a block without it drops nothing."""
    torch.manual_seed(0)
    joined = join_blocks(vit(drop_path_rate=0.5).train())
    masks = torch.stack(joined._masks(torch.zeros(4000, 1, 1))).squeeze()
    rates = torch.linspace(0, 0.5, len(joined)).repeat_interleave(2).tolist()
    for mask, rate in zip(masks, rates, strict=True):
        left = mask[mask > 0]
        assert float(1 - len(left) / len(mask)) == pytest.approx(rate, abs=0.04)
        torch.testing.assert_close(left, torch.full_like(left, 1 / (1 - rate)))
    assert all(mask is None for mask in joined.eval()._masks(torch.zeros(2, 1, 1)))
    assert not join_blocks(vit(drop_path_rate=0.5).eval()).training


def test_the_class_token_alone_and_equal_batches(images):
    model = vit()
    expected = model.eval()(images)
    joined = join_blocks(model)
    with class_token_alone(model):
        assert joined.alone
        torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)
        joined.copies = 2
        torch.testing.assert_close(model(images), expected.repeat(2, 1), rtol=1e-12, atol=1e-12)
    assert not joined.alone


def test_numbers_are_short_where_the_layer_behind_the_norm_shortens_them(images):
    model = vit().float().eval()
    joined = copy.deepcopy(model)
    join_blocks(joined)
    with torch.no_grad(), autocast("bfloat16", torch.device("cpu")):
        torch.testing.assert_close(joined(images.float()), model(images.float()), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["adapter", "vpt_deep", "noah"])
def test_blocks_that_are_no_longer_timms_stay_as_they_are(method):
    model = METHODS[method](timm.create_model("test_vit", num_classes=3, img_size=32))
    before = type(model.get_submodule("blocks")) if hasattr(model, "blocks") else None
    assert join_blocks(model) is None
    assert before is None or type(model.blocks) is before


def test_a_norm_of_another_class_and_a_hook_are_left_alone():
    model = vit()
    model.blocks[1].norm2 = nn.Identity()
    assert join_blocks(model) is None
    for watch in (
        lambda model: model.blocks[1].attn.register_forward_hook(lambda *_: None),
        lambda model: model.blocks[0].register_full_backward_pre_hook(lambda *_: None),
        lambda model: model.blocks.register_forward_hook(lambda *_: None),
    ):
        watched = vit()
        watch(watched)
        assert join_blocks(watched) is None
    assert join_blocks(nn.Sequential(nn.Linear(2, 2))) is None
