"""Convolutions and normalisations: the formula in every choice, exact fusion, whole models, counts, spaces."""

import copy
import random
from math import prod

import pytest
import timm
import torch
import torch.nn.functional as F
from fixtures.formula import dense, matrix, randomise, vector
from timm.layers import BatchNormAct2d, LayerNorm2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn.utils import parametrize

from glora_lib import adapt, fuse
from glora_lib.glora.conv import GLoRAConv2d
from glora_lib.glora.model import formed
from glora_lib.glora.norm import GLoRANorm
from glora_lib.glora.space import Choice, Space, forms

GENERATOR = torch.Generator()
CONVS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "1x1": {"kernel_size": 1},
    "stride, no padding": {"kernel_size": (3, 2), "stride": 2},
    "groups": {"kernel_size": 3, "groups": 2, "dilation": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4},
}
NORMS = {
    "LayerNorm": (lambda: nn.LayerNorm(4), (3, 5, 4)),
    "LayerNorm of two axes": (lambda: nn.LayerNorm((4, 2)), (3, 4, 2)),
    "LayerNorm without bias": (lambda: nn.LayerNorm(4, bias=False), (3, 5, 4)),
    "LayerNorm2d": (lambda: LayerNorm2d(4), (3, 4, 5, 2)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (3, 4, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), (3, 4)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (3, 4, 5, 2)),
    "BatchNormAct2d": (lambda: BatchNormAct2d(4), (3, 4, 5, 2)),
}
EVERY = Space(("one",), (3,)).choices()


def drawn(module: nn.Module) -> nn.Module:
    """Return the module in float64, every parameter random and every statistic another than at the start."""
    module = module.double()
    randomise(module, GENERATOR.manual_seed(0))
    for name, statistic in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            statistic.copy_(torch.rand(statistic.shape, generator=GENERATOR, dtype=torch.float64) + 0.5)
    return module.eval()


def unfolded(x: torch.Tensor, W: torch.Tensor, b: torch.Tensor, options: dict) -> torch.Tensor:
    """A convolution as a product of every patch with the matrix of its group."""
    options = dict(options)
    groups, size = options.pop("groups", 1), options.pop("kernel_size")
    patches = F.unfold(x, size, **options)  # (batch, inputs * height * width, places)
    parts = zip(patches.chunk(groups, 1), W.chunk(groups), strict=True)
    return torch.cat([torch.einsum("od,bdp->bop", weight, patch) for patch, weight in parts], 1) + b[:, None]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS)
@torch.no_grad()
def test_a_convolution_is_the_formula_on_every_patch_and_fuses_exactly(options, bias):
    layer = drawn(GLoRAConv2d(nn.Conv2d(4, 8, bias=bias, **options), rank=3, scale_broadcast=True))
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    for choice in EVERY[:: 1 if layer.plain.groups > 1 else 7]:  # all 432 where groups make it less than a linear layer
        expected = unfolded(x, *dense(layer, choice), options)
        fused = layer.use(choice).fuse()
        assert type(fused) is nn.Conv2d
        assert (fused.bias is not None) == (bias or choice.C != "none" or choice.E != "none")
        for y in (layer(x), fused(x)):
            assert y.flatten(2).shape == expected.shape, choice
            assert torch.allclose(y.flatten(2), expected, rtol=0, atol=1e-10), choice


@pytest.mark.parametrize(("make", "shape"), NORMS.values(), ids=NORMS)
@torch.no_grad()
def test_a_normalisation_is_the_formula_on_scale_and_shift_and_fuses_exactly(make, shape):
    plain = drawn(make())
    unit = copy.deepcopy(plain)
    unit.weight.fill_(1)
    if unit.bias is not None:
        unit.bias.fill_(0)
    activation = getattr(unit, "act", nn.Identity())
    unit.act = nn.Identity()
    layer, x = GLoRANorm(plain), torch.randn(shape, dtype=torch.float64)
    randomise(layer, GENERATOR.manual_seed(1))
    W0, b0 = layer.W0[:, 0], torch.zeros(len(layer.W0)).double() if layer.b0 is None else layer.b0
    assert layer.W0.shape == (plain.weight.numel(), 1)
    inside = plain.weight.shape if isinstance(plain, nn.LayerNorm) else (-1, *(1,) * (x.dim() - 2))
    if isinstance(plain, LayerNorm2d):
        inside = (-1, 1, 1)
    for choice in Space(("one",)).choices("norm"):
        A, B = (matrix(getattr(choice, name), getattr(layer, f"{name}d"), layer.W0, len(W0), 1)[:, 0] for name in "AB")
        w, b = W0 + W0 * A + B, b0 + b0 * vector(choice.D, layer.D) + vector(choice.E, layer.E)
        expected = activation(unit(x) * w.reshape(inside) + b.reshape(inside))
        fused = layer.use(choice).fuse()
        assert type(fused) is type(plain)
        for y in (layer(x), fused(x)):
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-10, msg=lambda m, choice=choice: f"{choice}: {m}")
    assert len(Space(("one",)).choices("norm")) == 81


def test_a_convolution_that_pads_otherwise_stays_one():
    layer = drawn(GLoRAConv2d(Conv2dSame(4, 8, 3, stride=2, bias=False), rank=2))
    fused = layer.use(Choice("lora2", "vector", "lora1", "none", "vector")).fuse()
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    assert type(fused) is Conv2dSame
    assert layer(x).shape == (2, 8, 4, 4)
    torch.testing.assert_close(layer(x), fused(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("choice", [Choice(A="lora2"), Choice(C="vector"), Choice(B="lora1")])
def test_a_normalisation_has_no_lora_and_no_c(choice):
    with pytest.raises(ValueError, match="of a normalisation; valid: "):
        GLoRANorm(nn.LayerNorm(4)).use(choice)


def test_frozen_running_statistics_do_not_move():
    net = adapt(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 2, layers=("conv", "norm"), train=())
    from glora_lib.training.loop import train_mode

    before = {name: tensor.clone() for name, tensor in net.named_buffers()}
    train_mode(net)
    net(torch.randn(4, 3, 6, 6) + 5)
    assert before
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.named_buffers())


MODELS = {
    "tf_efficientnet_lite0": ({}, 32),
    "convnext_atto": ({"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}, 32),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 4)},
        32,
    ),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_whole_models_fuse_exactly(name):
    options, size = MODELS[name]
    model = drawn_model(timm.create_model(name, num_classes=5, **options))
    kinds = {module: type(model.get_submodule(module)) for module, _ in model.named_modules() if module}
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    net = adapt(copy.deepcopy(model), 3, layers=("linear", "conv", "norm"))
    space = Space(net.layer_names, (3, 1), net.kinds)
    assert torch.equal(net.eval()(x), model(x))
    rng = random.Random(0)
    for layer in (net.layer(layer) for layer in net.layer_names):
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1, generator=GENERATOR)
    for config in (
        space.sample(rng),
        space.mutate(space.sample(rng), rng),
        space.cross(space.sample(rng), space.sample(rng), rng),
    ):
        assert space.decode(space.encode(config)) == config
        expected = net.use(config)(x)
        plain = fuse(net)
        assert {module: type(plain.get_submodule(module)) for module, _ in plain.named_modules() if module} == kinds
        torch.testing.assert_close(plain(x), expected, rtol=1e-10, atol=1e-10)
        with formed(net):
            torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
        assert (expected - model(x)).abs().max() > 1e-3


def drawn_model(model: nn.Module) -> nn.Module:
    return model.double().eval()


def test_stored_parameters_are_counted_by_shape_and_kind():
    model = timm.create_model("tf_efficientnet_lite0", num_classes=5)
    net = adapt(model, 4, layers=("conv", "norm"), train=("classifier",))
    space = Space(net.layer_names, (4, 2), net.kinds)
    assert set(net.kinds.values()) == {"conv", "norm"}
    assert space.count() == 900 ** list(net.kinds.values()).count("conv") * 81 ** list(net.kinds.values()).count("norm")
    config = space.sample(random.Random(1))
    stored = sum(tensor.numel() for name in net.layer_names for tensor in net.use(config).layer(name).stored().values())
    assert space.parameters(config, net.shapes) == stored
    dw = next(name for name in net.layer_names if name.endswith("conv_dw"))
    assert net.shapes[dw][1] == 9


def test_a_space_knows_what_a_kind_may_choose():
    space = Space(("a", "b", "c"), (4,), {"b": "norm", "c": "weight"})
    assert space.count() == 432 * 81 * 16
    assert space.forms_of("b")["A"] == ("vector", "scalar", "none")
    assert space.forms_of("c") == {"A": forms("A", (4,)), "B": forms("B", (4,)), "C": ("none",), "D": ("none",), "E": ("none",)}
    assert prod(len(options) for options in space.forms.values()) == space.per_layer == 432
    with pytest.raises(ValueError, match="unknown choice 'vector' for C of layer 'b'; valid here: none"):
        space.check({"a": Choice(), "b": Choice(C="vector"), "c": Choice()})
    with pytest.raises(ValueError, match=r"unknown kinds of layers \['attention'\]; valid: linear, conv, weight, norm"):
        Space(("a",), kinds={"a": "attention"})


def test_what_cannot_be_adapted_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(ValueError, match="layers of kind 'attention' cannot be adapted; valid: linear, conv, norm"):
        adapt(model, layers=("conv", "attention"), train=())
    with pytest.raises(ValueError, match="no linear or norm layer to adapt inside this Sequential"):
        adapt(model, layers=("linear", "norm"), train=())
    assert adapt(model, layers="conv", train=()).layer_names == ("0",)
    for part in (nn.Conv2d(3, 4, 3), nn.LayerNorm(4)):  # whose bias is computed
        parametrize.register_parametrization(part, "bias", nn.Tanh())
        with pytest.raises(ValueError, match="no conv or norm layer to adapt"):
            adapt(nn.Sequential(part), layers=("conv", "norm"), train=())


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 6, 3, 2, 1, groups=2),
        lambda: nn.LayerNorm(6),
        lambda: nn.BatchNorm2d(6),
        lambda: nn.GroupNorm(2, 6),
    ],
)
def test_what_stands_for_a_layer_has_its_attributes_and_its_hooks(make):
    plain, called = make(), []
    handle = plain.register_forward_hook(lambda *_: called.append("after"))
    net = adapt(nn.Sequential(copy.copy(plain)), rank=2, layers=("conv", "norm"), train=())
    layer = net.layer("0")
    for name, value in vars(plain).items():
        if not name.startswith("_"):
            assert getattr(layer, name) == value
    for name, buffer in plain.named_buffers():
        assert getattr(layer, name) is buffer
    assert layer.weight.shape == plain.weight.shape
    with pytest.raises(AttributeError, match="no_such"):
        layer.no_such  # noqa: B018
    x = (
        torch.randn(2, 6, 6)
        if isinstance(plain, nn.LayerNorm)
        else torch.randn(2, plain.weight.shape[0] if plain.weight.ndim == 1 else 4, 6, 6)
    )
    layer(input=x)
    assert called == ["after"]
    handle.remove()
    layer(input=x)
    assert called == ["after"]


def test_layers_with_one_parameter_share_it_again_when_fused():
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(2)), *(nn.LayerNorm(4) for _ in range(2)))
    model[1].weight, model[3].bias = model[0].weight, model[2].bias
    number = sum(p.numel() for p in model.parameters())
    net = adapt(copy.deepcopy(model), rank=2, layers=("conv", "norm"), train=())
    plain = fuse(net)
    assert plain[1].weight is plain[0].weight
    assert plain[3].bias is plain[2].bias
    assert sum(p.numel() for p in plain.parameters()) == number
    randomise(net.layer("1"), GENERATOR)
    with pytest.warns(UserWarning, match="1.weight of the fused model is its own, no longer that of 0"):
        fuse(net.use(net.config | {"1": Choice(B="vector")}))
    with pytest.raises(ValueError, match="layer '0' shares a parameter with '1', which is not adapted; skip the layer"):
        adapt(model, rank=2, layers=("conv", "norm"), skip="1", train=())
