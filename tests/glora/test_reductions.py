"""Which methods are points of GLoRA's space, and which are not, though the paper calls it a superset of all of them."""

import random

import pytest
import torch
from fixtures.vits import move, plain, vit
from torch import Tensor, nn

from glora_lib.audit.superset import point
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.space import Space
from glora_lib.methods import METHODS

NAMES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
every_layer = pytest.mark.parametrize("name", NAMES)
every_bias = pytest.mark.parametrize("kind", ["class token", "no class token, no qkv bias"])


pytestmark = pytest.mark.usefixtures("one_thread")


def trained(method: str, kind: str = "class token", **options) -> nn.Module:
    return move(METHODS[method](vit(kind), **options)).eval()


def same(ours: GLoRALinear, theirs, d1: int) -> None:
    x = torch.randn(7, d1, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(ours.fuse()(x), theirs(x), rtol=0, atol=1e-10)
    assert (ours(x) - nn.functional.linear(x, ours.W0, ours.b0)).abs().max() > 1e-3


def parts(method: str, name: str, kind: str = "class token", **options) -> tuple[nn.Module, nn.Linear]:
    """Return what a trained method made of one layer of block 1, and the backbone's own layer."""
    return trained(method, kind, **options).get_submodule(f"blocks.1.{name}"), vit(kind).get_submodule(f"blocks.1.{name}")


@every_layer
@every_bias
@torch.no_grad()
def test_bitfit_on_a_linear_layer_is_e(name, kind):
    theirs, layer = parts("bitfit", name, kind)
    if layer.bias is None:
        pytest.skip("nothing to train in this layer")
    same(point(layer, E=theirs.bias - layer.bias), theirs, layer.in_features)


@every_layer
@every_bias
@torch.no_grad()
def test_lora_is_b_of_its_own_rank(name, kind):
    theirs, layer = parts("lora", name, kind, rank=4, scale=0.5)
    same(point(layer, B=(0.5 * theirs.up[0], theirs.down[0])), theirs, layer.in_features)


@torch.no_grad()
def test_lora_on_queries_and_values_is_b_of_twice_the_rank():
    theirs, layer = parts("lora", "attn.qkv", rank=4, placement="qv")
    down = torch.zeros(192, 8, dtype=torch.float64)
    down[:64, :4], down[128:, 4:] = theirs.up
    same(point(layer, B=(down, theirs.down.flatten(0, 1))), theirs, 64)


@every_layer
@every_bias
@torch.no_grad()
def test_ssf_after_a_linear_layer_is_a_d_and_e(name, kind):
    theirs, layer = parts("ssf", name, kind)
    same(point(layer, A=theirs.gamma - 1, D=theirs.gamma - 1, E=theirs.beta), theirs, layer.in_features)


@pytest.mark.parametrize(("name", "norm"), [("attn.qkv", "norm1"), ("mlp.fc1", "norm2")])
@every_bias
@torch.no_grad()
def test_ssf_after_a_norm_is_a_and_c_of_the_next_layer(name, norm, kind):
    """A is LoRA of rank 1, ones times gamma - 1; C is beta, which W0 takes to the bias."""
    layer, theirs = vit(kind).get_submodule(f"blocks.1.{name}"), trained("ssf", kind).get_submodule(f"blocks.1.{norm}")
    ones = torch.ones(layer.out_features, 1, dtype=torch.float64)
    ours = point(layer, A=(ones, theirs.gamma[None] - 1), C=theirs.beta)
    same(ours, lambda x: layer(x * theirs.gamma + theirs.beta), layer.in_features)


@pytest.mark.parametrize("name", ["attn.qkv", "mlp.fc1"])
@every_bias
@torch.no_grad()
def test_repadapter_is_b_and_c(name, kind):
    theirs, layer = parts("repadapter", name, kind, scale=0.5)
    up = theirs.dense_up()
    ours = point(layer, B=(0.5 * layer.weight @ up, theirs.down), C=0.5 * (up @ theirs.down_bias + theirs.up_bias))
    same(ours, theirs, layer.in_features)


@every_layer
@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
@torch.no_grad()
def test_fact_is_b_of_its_own_rank(name, method):
    """As a function: that all layers share U and V is a tie between points, which GLoRA does not have."""
    theirs, layer = parts(method, name, rank=3, scale=0.5)
    U, V, S = theirs.factors.U, theirs.factors.V, theirs.cores()
    if theirs.grid[1] == 1:
        factors = torch.cat([V.T @ core.T for core in S[:, 0]]), U.T
    else:
        factors = V.T, torch.cat([core.T @ U.T for core in S[0]], 1)
    same(point(layer, B=(0.5 * factors[0], factors[1])), theirs, layer.in_features)


# On one token the softmax is 1 whatever the weights, and attention affine. With norms and activation taken out of a block, so
# is the block, for every point of GLoRA; what is not affine there is no point of GLoRA.


def affine_block(method: str, **options) -> nn.Module:
    """Return block 0 of an adapted ViT without norms and activations, its trained parameters moved."""
    model = vit()
    for block in model.blocks:
        block.norm1, block.norm2, block.mlp.act = nn.Identity(), nn.Identity(), nn.Identity()
    net = METHODS[method](model, **options)
    if method == "glora":
        net.use(Space(net.layer_names, (8,)).sample(random.Random(0)))
    return plain(move(net, by=0.3).eval()).blocks[0]


@torch.no_grad()
def residual(function, d: int = 64) -> float:
    """Return the largest error, relative to the outputs' deviation, of the best affine fit to a function of one token."""
    x = torch.randn(400, d, dtype=torch.float64)
    y = function(x[:, None])[:, 0]
    inputs = torch.cat([x, torch.ones(400, 1, dtype=torch.float64)], 1)
    fit = inputs @ torch.linalg.lstsq(inputs, y).solution
    return float((y - fit).abs().max() / y.std())


@pytest.mark.parametrize("method", ["linear", "bitfit", "lora", "fact_tt", "fact_tk", "repadapter", "glora"])
def test_points_of_glora_keep_the_block_affine(method):
    assert residual(affine_block(method)) < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_every_point_of_glora_keeps_the_block_affine(seed):
    net = METHODS["glora"](vit(), rank=4)
    block = net.model.blocks[0]
    block.norm1, block.norm2, block.mlp.act = nn.Identity(), nn.Identity(), nn.Identity()
    move(net).use(Space(net.layer_names, (4,)).sample(random.Random(seed)))
    assert residual(block) < 1e-9


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("vpt_deep", {"tokens": 3}),
        ("adapter", {}),
        ("adapter", {"placement": "houlsby"}),
        ("adaptformer", {"scale": 1.0}),
        ("noah", {}),
    ],
    ids=str,
)
def test_prompts_and_adapters_are_no_points_of_glora(method, options):
    assert residual(affine_block(method, **options)) > 1e-4


def test_shallow_prompts_are_no_point_of_glora():
    """The prompts join in front of all blocks; the sequence has one block here."""
    model = vit(depth=1)
    model.blocks[0].norm1, model.blocks[0].norm2, model.blocks[0].mlp.act = nn.Identity(), nn.Identity(), nn.Identity()
    assert residual(model.blocks) < 1e-9
    assert residual(move(METHODS["vpt_shallow"](model, tokens=3), by=1.0).eval().blocks) > 1e-4


@pytest.mark.parametrize("part", ["prompt", "adapter"])
def test_either_part_of_noah_alone_is_enough(part):
    config = dict.fromkeys(("prompt", "lora", "adapter"), (0,) * 6) | {part: (5,) * 6}
    assert residual(affine_block("noah", config=config)) > 1e-4


def test_noah_s_lora_alone_is_a_point_of_glora():
    config = dict.fromkeys(("prompt", "lora", "adapter"), (0,) * 6) | {"lora": (5,) * 6}
    assert residual(affine_block("noah", config=config)) < 1e-9


def test_an_affine_fit_finds_an_affine_function_and_no_other():
    weight = torch.randn(64, 64, dtype=torch.float64)

    def affine(x: Tensor) -> Tensor:
        return x @ weight + 1

    assert residual(affine) < 1e-9
    assert residual(lambda x: affine(x).relu()) > 0.1
