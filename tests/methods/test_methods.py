"""Every method: fusion, training, dense formulas, and errors that say what is wrong."""

import random
from types import SimpleNamespace

import peft
import pytest
import timm
import torch
import torch.nn.functional as F
from fixtures.vits import VITS, images, move, plain, supernet, vit
from torch import nn
from torch.utils.data import TensorDataset

from glora_lib.glora.model import fuse
from glora_lib.glora.space import Space
from glora_lib.measures.sizes import NOT_FUSABLE
from glora_lib.methods import METHODS, NotFusable, trainable_parameters
from glora_lib.methods.lora import LoRALinear
from glora_lib.methods.noah import PARTS, search
from glora_lib.training.loop import train

FUSABLE = [method for method in METHODS if method not in NOT_FUSABLE]
OPTIONS = {
    "lora": [{"rank": 4}, {"rank": 4, "placement": "qkv", "scale": 0.5}, {"rank": 4, "placement": "qv"}, {"placement": "conv"}],
    "fact_tt": [{"rank": 4, "scale": 0.3}],
    "fact_tk": [{"rank": 4, "scale": 0.3}],
    "repadapter": [{"scale": 0.5}, {"groups": 1, "bias": False}, {"groups": 4}],
    "glora": [{"rank": 4}],
    "adapter": [{}, {"placement": "houlsby"}],
    "adaptformer": [{"scale": 1.0}, {"scale": 1.0, "bias": False}],
    "vpt_shallow": [{"tokens": 3}],
    "vpt_deep": [{"tokens": 3}],
    "superlora_dense": [{}, {"groups": 1, "ratio": 0.1, "projection": "fastfood", "seed": 0}],
    "superlora_lora": [{"r": 4}, {"r": 4, "groups": 2, "shape": "fold"}],
    "superlora_lonkr": [{"side": 2}],
    "superlora_lotr": [{"r": 4, "scale": 0.02}],  # its factors start with deviation 1
}
CASES = [(method, options) for method in METHODS for options in OPTIONS.get(method, [{}])]
every_vit = pytest.mark.parametrize("name", VITS)


pytestmark = pytest.mark.usefixtures("one_thread")


def adapted(name: str, method: str, options: dict, **kwargs) -> nn.Module:
    """Return an adapted ViT in evaluation mode whose trained parameters are as after training."""
    net = METHODS[method](vit(name, **kwargs), **options)
    if method == "glora":
        net.use(Space(net.layer_names, (4,)).sample(random.Random(0)))
    return move(net).eval()


# fusion


@every_vit
@pytest.mark.parametrize(("method", "options"), [case for case in CASES if case[0] in FUSABLE], ids=str)
@torch.no_grad()
def test_fused_the_model_is_the_backbone_again_with_the_same_output(name, method, options):
    base, net = vit(name, drop_path_rate=0.1), adapted(name, method, options, drop_path_rate=0.1)
    fused, expected = fuse(net), net(images(name))
    torch.testing.assert_close(fused(images(name)), expected, rtol=0, atol=1e-10)
    if method != "linear":
        base.head.load_state_dict(plain(net).head.state_dict())
        assert (base(images(name)) - expected).abs().max() > 1e-3  # there is something to fuse
    assert [(n, type(m)) for n, m in fused.named_modules()] == [(n, type(m)) for n, m in base.named_modules()]
    shapes = {n: p.shape for n, p in fused.named_parameters()}
    gained = set(shapes) - {n for n, _ in base.named_parameters()}
    assert all(n.endswith(".bias") for n in gained)  # a layer without bias may gain one
    assert gained == set() or "no" in name
    assert all(shapes[n] == p.shape for n, p in base.named_parameters())
    assert all(p.requires_grad for p in fused.parameters())


@pytest.mark.parametrize("method", sorted(NOT_FUSABLE))
def test_what_cannot_be_fused_says_so_and_why(method):
    net = METHODS[method](vit())
    with pytest.raises(NotFusable, match="cannot be fused: "):
        fuse(net)
    assert net(images()).shape == (4, 3)


@every_vit
@pytest.mark.parametrize("method", ["lora", "fact_tt", "fact_tk", "adaptformer", "repadapter", "glora", "bitfit", "full"])
@torch.no_grad()
def test_starts_as_the_backbone(name, method):
    expected = vit(name)(images(name))
    torch.testing.assert_close(METHODS[method](vit(name)).eval()(images(name)), expected, rtol=0, atol=1e-12)


@every_vit
@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep", "adapter", "adaptformer", "ssf", "noah"])
@torch.no_grad()
def test_changes_the_output_once_it_is_trained(name, method):
    base, net = vit(name), move(METHODS[method](vit(name))).eval()
    base.head.load_state_dict(plain(net).head.state_dict())
    assert (base(images(name)) - net(images(name))).abs().max() > 1e-4


# initialisation


@torch.no_grad()
def initial(method: str, **options) -> dict[str, tuple[float, float]]:
    """Return name -> (largest absolute value, deviation) of what a method adds to block 1 of a ViT-S, and of shared factors."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=3, depth=2)
    known = {id(p) for p in model.parameters()}
    added = {name: p for name, p in METHODS[method](model, **options).named_parameters() if id(p) not in known}
    return {name.removeprefix("blocks.1."): (float(p.abs().max()), float(p.std())) for name, p in added.items()}


def test_every_method_starts_as_in_the_code_of_its_authors():
    """Bounds of uniform distributions: Kaiming's sqrt(1 / inputs), Xavier's sqrt(6 / (inputs + outputs)), VPT's own."""
    d, zero, kaiming = 384, (0.0, 0.0), 384**-0.5

    def uniform(found: tuple[float, float], bound: float) -> bool:
        return 0.9 * bound < found[0] <= bound and found[1] == pytest.approx(bound / 3**0.5, rel=0.1)

    lora = initial("lora")
    assert uniform(lora["attn.qkv.down"], kaiming)
    assert uniform(lora["mlp.fc2.down"], (4 * d) ** -0.5)
    assert lora["attn.qkv.up"] == zero
    assert uniform(initial("lora", placement="qv")["attn.qkv.down"], kaiming)
    assert uniform(initial("vpt_shallow")["blocks.0.prompt"], (6 / (3 * 16 * 16 + d)) ** 0.5)
    assert uniform(initial("vpt_deep")["prompt"], (6 / (3 * 16 * 16 + d)) ** 0.5)
    adapter = initial("adapter")
    assert uniform(adapter["ls2.adapter.down.weight"], (6 / (d + 8)) ** 0.5)
    assert uniform(adapter["ls2.adapter.up.weight"], (6 / (d + 8)) ** 0.5)
    assert 0 < adapter["ls2.adapter.up.bias"][1] < 2e-6
    adaptformer = initial("adaptformer")
    assert uniform(adaptformer["mlp.adapter.down.weight"], kaiming)
    assert adaptformer["mlp.adapter.up.weight"] == adaptformer["mlp.adapter.up.bias"] == zero
    fact = initial("fact_tt", rank=16)
    shared = "blocks.0.attn.qkv.factors"
    assert uniform(fact[f"{shared}.U"], kaiming)
    assert fact[f"{shared}.V"] == zero
    assert uniform(fact["mlp.fc1.S"], 16**-0.5)
    assert uniform(fact["mlp.fc2.S"], 64**-0.5)
    fact = initial("fact_tk", rank=16)
    assert uniform(fact[f"{shared}.C"], (6 / (2 * 16**2)) ** 0.5)
    assert uniform(fact[f"{shared}.P"], (6 / (16 + 24)) ** 0.5)
    ssf = initial("ssf")
    assert ssf["mlp.fc1.gamma"][1] == pytest.approx(0.02, rel=0.1)
    assert ssf["mlp.fc1.beta"][1] == pytest.approx(0.02, rel=0.1)
    assert ssf["mlp.fc1.gamma"][0] < 1.1
    repadapter = initial("repadapter")
    assert uniform(repadapter["mlp.fc1.down"], (6 / (d + 8)) ** 0.5)
    assert repadapter["mlp.fc1.up"] == repadapter["mlp.fc1.down_bias"] == repadapter["mlp.fc1.up_bias"] == zero


@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
def test_dropout_is_a_tenth_where_a_method_has_any(method, options):
    found = {m.p for m in METHODS[method](vit(), **options).modules() if isinstance(m, nn.Dropout) and m.p}
    without = method in ("linear", "full", "bitfit", "ssf", "glora") or options.get("placement") == "conv"
    assert found == (set() if without or method.startswith("superlora") else {0.1})


# training


class Toy(TensorDataset):
    """Images of three classes that a glance tells apart: which of the colours is bright."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(48) % 3
        pictures = 0.3 * torch.randn(48, 3, 32, 32, generator=generator)
        pictures[torch.arange(48), self.labels] += 1.5
        super().__init__(pictures, self.labels)


RECIPE = SimpleNamespace(
    epochs=2, batch_size=8, learning_rate=3e-3, head_learning_rate=1e-2, weight_decay=1e-4, warmup_epochs=0,
    first_learning_rate=1e-3, final_learning_rate=1e-4, update_unsampled=False, dtype="float32",
)  # fmt: skip


@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
def test_training_lowers_the_loss_and_changes_nothing_that_is_frozen(method, options):
    model = vit(dtype=torch.float32, depth=2)
    backbone = dict(model.named_parameters())
    net = METHODS[method](model, **options)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    sample = None
    if supernet(net):
        sample = getattr(net, "sample", None) or Space(net.layer_names, (4,)).sample
    history = train(net, Toy(), RECIPE, sample=sample, seed=0)
    assert history[1]["loss"] < history[0]["loss"]
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= trained
    if sample is None:
        assert changed == trained
    assert len([name for name in changed if "head" not in name]) > 0 or method == "linear"
    known = {id(p) for p in backbone.values()}
    of_backbone = {name for name, p in net.named_parameters() if id(p) in known}
    own = {name for name in changed & of_backbone if "head" not in name}
    assert all(name.endswith(".bias") for name in own) if method == "bitfit" else (method == "full" or not own)
    assert {"head.weight", "head.bias"} <= {name.removeprefix("model.") for name in changed}
    assert trainable_parameters(net) == sum(before[name].numel() for name in trained if "head" not in name)


@pytest.mark.parametrize(("method", "options"), [case for case in CASES if case[0] in FUSABLE], ids=str)
def test_fusion_is_exact_after_training(method, options):
    """With the optimiser's own values, dropout and drop path off again; nothing that was trained is still at its start."""
    base = vit(depth=2, drop_path_rate=0.1)
    net = METHODS[method](vit(depth=2, drop_path_rate=0.1), **options)
    if method == "glora":
        net.use(Space(net.layer_names, (4,)).sample(random.Random(0)))
    data = Toy()
    train(net, TensorDataset(data.tensors[0].double(), data.labels), RECIPE, seed=0)
    with torch.no_grad():
        output = net(images())
        torch.testing.assert_close(fuse(net)(images()), output, rtol=0, atol=1e-10)
        base.head.load_state_dict(plain(net).head.state_dict())
        assert (base(images()) - output).abs().max() > 1e-3 or method == "linear"
        base.head.reset_parameters()
        assert (base(images()) - output).abs().max() > 1e-3


# dense formulas, written out


def filled(method: str, **options) -> nn.Module:
    return move(METHODS[method](vit(), **options)).eval()


@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
@torch.no_grad()
def test_fact_is_the_sum_over_its_matrices(method):
    """dW[i, j] of a d x d matrix, x as a row: scale * sum over a, b of U[i, a] S[a, b] V[b, j]; qkv, proj, fc1, fc2 in turn."""
    net, base = filled(method, rank=3, scale=0.7), vit()
    factors = net.blocks[0].attn.qkv.factors
    d, number = 64, 0
    for index in range(2):
        for name, (down, across) in {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (3, 1), "mlp.fc2": (1, 3)}.items():
            layer = net.get_submodule(f"blocks.{index}.{name}")
            assert layer.factors is factors
            W = base.get_submodule(f"blocks.{index}.{name}").weight.detach().clone()
            for matrix in range(down * across):
                if method == "fact_tt":
                    S = layer.S.flatten(0, 1)[matrix]
                else:
                    S = sum(factors.C[:, :, c] * factors.P[c, number] for c in range(3))
                number += 1
                dW = sum(torch.outer(factors.U[:, a] * S[a, b], factors.V[b]) for a in range(3) for b in range(3))
                rows, columns = (matrix * d, 0) if across == 1 else (0, matrix * d)
                W[rows : rows + d, columns : columns + d] += 0.7 * dW.T
            torch.testing.assert_close(layer.fuse().weight, W, rtol=0, atol=1e-12)
            x = torch.randn(5, W.shape[1], dtype=torch.float64)
            expected = x @ W.T + base.get_submodule(f"blocks.{index}.{name}").bias
            torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    assert method == "fact_tt" or factors.P.shape == (3, 6 * 10)


def lora_layers(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if isinstance(module, LoRALinear)}


@torch.no_grad()
def test_lora_adds_a_product_of_two_factors():
    every, shared, apart = (filled("lora", rank=4, placement=placement, scale=0.5) for placement in ("all", "qkv", "qv"))
    base = vit()
    assert list(lora_layers(every)) == [name for name, m in base.named_modules() if type(m) is nn.Linear and name != "head"]
    assert list(lora_layers(shared)) == list(lora_layers(apart)) == [f"blocks.{index}.attn.qkv" for index in range(6)]
    for net in (every, shared):
        for name, layer in lora_layers(net).items():
            theirs = base.get_submodule(name)
            x = torch.randn(5, theirs.in_features, dtype=torch.float64)
            expected = x @ theirs.weight.T + theirs.bias + 0.5 * (x @ layer.down[0].T) @ layer.up[0].T
            torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    for name, layer in lora_layers(apart).items():
        theirs, x = base.get_submodule(name), torch.randn(5, 64, dtype=torch.float64)
        expected = x @ theirs.weight.T + theirs.bias
        expected[:, :64] += 0.5 * x @ (layer.up[0] @ layer.down[0]).T
        expected[:, 128:] += 0.5 * x @ (layer.up[1] @ layer.down[1]).T
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("placement", ["all", "qkv"])
@torch.no_grad()
def test_lora_of_a_vit_agrees_with_peft(placement):
    """The third placement does not exist there: a fused qkv is one layer."""
    names = r"blocks\..*(qkv|proj|fc1|fc2)" if placement == "all" else r"blocks\..*qkv"
    theirs = peft.get_peft_model(vit(), peft.LoraConfig(r=4, lora_alpha=2, target_modules=names)).double().eval()
    net = METHODS["lora"](vit(), rank=4, placement=placement, scale=0.5).eval()  # their scale is alpha / r
    for name, layer in lora_layers(net).items():
        other = theirs.base_model.model.get_submodule(name)
        nn.init.normal_(other.lora_B["default"].weight, std=0.1)
        layer.down[0] = other.lora_A["default"].weight
        layer.up[0] = other.lora_B["default"].weight
    expected = theirs(images())
    assert (expected - vit()(images())).abs().max() > 1e-3
    torch.testing.assert_close(net(images()), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(fuse(net)(images()), expected, rtol=0, atol=1e-10)
    assert trainable_parameters(net) == theirs.get_nb_trainable_parameters()[0]


@torch.no_grad()
def test_ssf_scales_and_shifts_what_every_layer_puts_out():
    net, base = filled("ssf"), vit()
    names = ["patch_embed.proj", "norm"]
    names += [
        f"blocks.{i}.{part}" for i in range(6) for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    ]
    found = [name for name, module in net.named_modules() if hasattr(module, "gamma")]
    assert set(found) == set(names)
    for name in names:
        layer, plain_layer = net.get_submodule(name), base.get_submodule(name)
        x = torch.randn(2, plain_layer.weight.shape[-1], dtype=torch.float64)
        if name == "patch_embed.proj":
            x = images()
            y = plain_layer(x)
            expected = torch.stack([layer.gamma[c] * y[:, c] + layer.beta[c] for c in range(64)], 1)
        else:
            expected = plain_layer(x) @ torch.diag(layer.gamma) + layer.beta
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.fuse()(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
@torch.no_grad()
def test_repadapter_is_a_grouped_bottleneck_in_front_of_the_layer(groups):
    net, base = filled("repadapter", groups=groups, scale=0.7), vit()
    for name in ("blocks.1.attn.qkv", "blocks.1.mlp.fc1"):
        layer, plain_layer = net.get_submodule(name), base.get_submodule(name)
        Wu = torch.zeros(64, 8, dtype=torch.float64)
        for row in range(64):
            group = row // (64 // groups)
            for column in range(8 // groups):
                Wu[row, group * (8 // groups) + column] = layer.up[row, column]
        x = torch.randn(5, 64, dtype=torch.float64)
        bottleneck = x @ layer.down.T + layer.down_bias
        expected = plain_layer(x + 0.7 * (bottleneck @ Wu.T + layer.up_bias))
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
        convolved = nn.functional.conv1d(bottleneck.T[None], layer.up[:, :, None], layer.up_bias, groups=groups)[0].T
        torch.testing.assert_close(x + 0.7 * convolved, x + 0.7 * (bottleneck @ Wu.T + layer.up_bias), rtol=0, atol=1e-12)


@every_vit
@torch.no_grad()
def test_adapters_stand_outside_layer_scale(name):
    net, base = adapted(name, "adapter", {"placement": "houlsby"}), vit(name)
    theirs, ours = base.blocks[1], net.blocks[1]
    x = torch.randn(2, 5, base.embed_dim, dtype=torch.float64)

    def adapter(part: nn.Module, z: torch.Tensor) -> torch.Tensor:
        hidden = z @ part.down.weight.T + part.down.bias
        return z + (hidden * torch.sigmoid(1.702 * hidden)) @ part.up.weight.T + part.up.bias

    middle = x + adapter(ours.ls1.adapter, theirs.ls1(theirs.attn(theirs.norm1(x))))
    expected = middle + adapter(ours.ls2.adapter, theirs.ls2(theirs.mlp(theirs.norm2(middle))))
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-12)

    ours = adapted(name, "adaptformer", {"scale": 0.3}).blocks[1]
    middle = x + theirs.ls1(theirs.attn(theirs.norm1(x)))
    z, part = theirs.norm2(middle), ours.mlp.adapter
    beside = (z @ part.down.weight.T + part.down.bias).clamp(min=0) @ part.up.weight.T + part.up.bias
    torch.testing.assert_close(ours(x), middle + theirs.ls2(theirs.mlp(z)) + 0.3 * beside, rtol=0, atol=1e-12)


@every_vit
@torch.no_grad()
def test_prompts_join_the_sequence(name):
    """Against the sequence written out, prompts at its end, as in NOAH's code: where they stand is without meaning."""
    shallow, deep = (adapted(name, method, {"tokens": 3}) for method in ("vpt_shallow", "vpt_deep"))
    base = vit(name)
    x = torch.randn(2, 5 + base.num_prefix_tokens, base.embed_dim, dtype=torch.float64)
    n = x.shape[1]
    y = torch.cat([x, shallow.blocks[0].prompt.expand(2, -1, -1)], 1)
    for block in base.blocks:
        y = block(y)
    torch.testing.assert_close(shallow.blocks(x), y[:, :n], rtol=0, atol=1e-12)
    y = x
    for block, prompted in zip(base.blocks, deep.blocks, strict=True):
        y = block(torch.cat([y, prompted.prompt.expand(2, -1, -1)], 1))[:, :n]
    torch.testing.assert_close(deep.blocks(x), y, rtol=0, atol=1e-12)
    assert [name for name, _ in shallow.named_parameters() if "prompt" in name] == ["blocks.0.prompt"]


@pytest.mark.parametrize("depth", [1, 3])
def test_in_training_dropout_acts_on_the_prompts_and_behind_the_blocks(depth):
    net = METHODS["vpt_shallow"](vit(depth=depth), tokens=3).train()
    x, prompt = torch.randn(2, 5, 64, dtype=torch.float64), net.blocks[0].prompt
    torch.manual_seed(3)
    got = net.blocks(x)
    torch.manual_seed(3)
    y = torch.cat([x[:, :1], F.dropout(prompt.expand(2, -1, -1), 0.1), x[:, 1:]], 1)
    for block in vit(depth=depth).train().blocks:
        y = block(y)
    y = F.dropout(y, 0.1)
    torch.testing.assert_close(got, torch.cat([y[:, :1], y[:, 4:]], 1), rtol=0, atol=1e-12)


@every_vit
@pytest.mark.parametrize("method", ["vpt_shallow", "vpt_deep"])
@pytest.mark.parametrize("depth", [1, 3])
def test_prompts_take_part_whoever_walks_over_the_blocks(name, method, depth):
    net = move(METHODS[method](vit(name, depth=depth), tokens=4)).eval()
    x, gradients = images(name), []
    expected = net.forward_features(x)
    for checkpointing in (False, True):
        net.set_grad_checkpointing(checkpointing)
        net.zero_grad()
        net(x).square().sum().backward()
        gradients.append([p.grad for p in net.parameters() if p.requires_grad])
        with torch.no_grad():
            last, between = net.forward_intermediates(x, norm=True)
        torch.testing.assert_close(last, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(between[-1].flatten(2).mT, expected[:, net.num_prefix_tokens :], rtol=0, atol=1e-12)
        assert len(between) == depth
    for kept, computed_again in zip(*gradients, strict=True):
        torch.testing.assert_close(computed_again, kept, rtol=0, atol=1e-12)
    if (
        depth == 3 and method == "vpt_shallow"
    ):  # what lies between: the sequence without the prompts that stand behind its prefix
        prefix = net.num_prefix_tokens
        y = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))
        y = net.blocks[1](net.blocks[0](y))
        expected = net.norm(torch.cat([y[:, :prefix], y[:, prefix + 4 :]], 1))[:, prefix:]
        torch.testing.assert_close(net.get_intermediate_layers(x, n=[1], norm=True)[0], expected, rtol=0, atol=1e-12)


# NOAH


def test_noah_draws_a_depth_for_each_part_and_a_width_for_each_block():
    net, rng = METHODS["noah"](vit(depth=12)), random.Random(0)
    drawn = [net.sample(rng) for _ in range(300)]
    for part in PARTS:
        lists = [config[part] for config in drawn]
        assert {len([w for w in widths if w]) for widths in lists} == {3, 6, 9, 12}
        assert all(0 not in widths[: len([w for w in widths if w])] for widths in lists)
        assert {w for widths in lists for w in widths} == {0, 1, 5, 10}


@torch.no_grad()
def test_a_subnet_of_noah_is_the_same_alone():
    """Slices of the supernet's storage, put into the subnet's own."""
    net = move(METHODS["noah"](vit())).eval()
    config = {"prompt": (5, 1, 10, 0, 0, 0), "lora": (10, 1, 5, 5, 0, 0), "adapter": (1, 5, 0, 0, 0, 0)}
    net.use(config)
    alone = METHODS["noah"](vit(), config=config).eval()
    assert trainable_parameters(alone) == net.size(config) < trainable_parameters(net)
    for part, places in alone.places.items():
        for own, wide in zip(places, net.places[part], strict=True):
            for name, p in own.named_parameters() if own is not None else ():
                if p.requires_grad:
                    p.copy_(wide.get_parameter(name)[tuple(slice(0, length) for length in p.shape)])
    alone.model.head.load_state_dict(net.model.head.state_dict())
    torch.testing.assert_close(alone(images()), net(images()), rtol=0, atol=1e-12)


def test_noah_s_mutation_changes_depths_and_its_crossover_takes_whole_parts():
    net, rng = METHODS["noah"](vit()), random.Random(0)
    first, second = net.sample(rng), net.sample(rng)
    mutants = [net.mutate(first, rng, probability=1.0, deepen=1.0) for _ in range(50)]
    for mutant in mutants:
        for part in PARTS:
            old, new = ([w for w in config[part] if w] for config in (first, mutant))
            shared = min(len(old), len(new))
            assert old[:shared] == new[:shared]
    assert len({tuple(mutant.values()) for mutant in mutants}) > 10
    assert net.mutate(first, rng, probability=0.0) == first
    for _ in range(20):
        child = net.cross(first, second, rng)
        assert all(child[part] in (first[part], second[part]) for part in PARTS)


def test_noah_s_search_finds_more_than_chance_within_the_limit():
    net = METHODS["noah"](vit())
    limit = net.size(net.stored) // 2
    settings = {"population": 12, "parents": 3, "mutations": 5, "crossovers": 5, "generations": 6, "limit": limit}

    def score(config) -> float:  # wide prompts and adapters of few blocks
        return sum(config["prompt"]) - sum(config["adapter"])

    ranking = search(net, score, seed=0, **settings)
    assert len(ranking) == len({str(config) for _, _, config in ranking}) == 12 * 7  # a population a generation, none twice
    assert all(size == net.size(config) <= limit for _, size, config in ranking)
    assert [entry[0] for entry in ranking] == sorted((entry[0] for entry in ranking), reverse=True)
    first = max(value for value, _, config in search(net, score, seed=0, **settings | {"generations": 0}))
    assert ranking[0][0] > first
    assert search(net, score, seed=0, **settings) == ranking
    with pytest.raises(ValueError, match="no random configuration has at most 10 parameters"):
        search(net, score, limit=10, population=3)


# wrong input


class ConvNet(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)


class Nameless(nn.Module):
    """Blocks, but not timm's."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.TransformerEncoderLayer(8, 2))


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("linear", "full", "bitfit", "lora", "glora")])
def test_a_model_without_the_named_layers_is_an_error_that_says_what_is_there(method):
    with pytest.raises(ValueError, match="ConvNet has no (`blocks`|sequence of tokens)"):
        METHODS[method](ConvNet())
    expected = r"Nameless has no (sequence of tokens|layer 'blocks.0.*'; the block has: self_attn)"
    with pytest.raises(ValueError, match=expected):
        METHODS[method](Nameless())


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_a_head_is_an_error_that_says_so(method):
    """Full fine-tuning and GLoRA train what is there."""
    if method in ("full", "glora"):
        return
    model = timm.create_model("test_vit", num_classes=0)
    before = [(name, type(module)) for name, module in model.named_modules()]
    with pytest.raises(ValueError, match="VisionTransformer has no head; the methods train one"):
        METHODS[method](model)
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", ["linear", "bitfit", "lora"])
def test_a_model_that_is_not_timm_s_is_an_error_that_names_what_it_lacks(method):
    with pytest.raises(ValueError, match="Sequential has no head; the methods train one, which `get_classifier`"):
        METHODS[method](nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 3)))


def test_lora_needs_a_linear_layer_beside_the_head():
    with pytest.raises(ValueError, match="no linear layer to adapt inside this ConvNet but the head's"):
        METHODS["lora"](ConvNet())


@pytest.mark.parametrize("placement", ["qkv", "qv"])
def test_lora_in_qkv_needs_blocks(placement):
    with pytest.raises(ValueError, match="ConvNet has no `blocks`"):
        METHODS["lora"](ConvNet(), placement=placement)


@pytest.mark.parametrize("name", ["test_resnet", "mixer_s32_224"])
def test_a_prompt_needs_a_sequence_of_tokens(name):
    """A mixer has tokens, but a fixed number of them."""
    with torch.device("meta"):
        model = timm.create_model(name)
    for method in ("vpt_shallow", "vpt_deep"):
        with pytest.raises(ValueError, match="has no sequence of tokens that a prompt could join"):
            METHODS[method](model)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("lora", {"rank": 65}, "rank 65 does not suit layer 'blocks.0.attn.qkv' of width 64; valid: 1 to that width"),
        ("lora", {"rank": 65, "placement": "qkv"}, "rank 65 does not suit layer 'blocks.0.attn.qkv'"),
        ("lora", {"rank": 65, "placement": "qv"}, "rank 65 does not suit layer 'blocks.0.attn.qkv'"),
        ("lora", {"rank": 0}, "rank 0 does not suit"),
        ("lora", {"placement": "k"}, "placement 'k' is not known; valid: all, qkv, qv"),
        ("fact_tt", {"rank": 65}, "rank 65 does not suit layer 'blocks.0.attn.qkv'"),
        ("fact_tk", {"rank": 0}, "rank 0 does not suit"),
        ("repadapter", {"width": 65}, "bottleneck width 65 does not suit"),
        ("repadapter", {"groups": 3}, "3 groups do not divide the bottleneck 8 and the 64 inputs of 'blocks.0.attn.qkv'"),
        ("repadapter", {"width": 6, "groups": 3}, "3 groups do not divide"),
        ("repadapter", {"groups": 0}, "0 groups do not divide"),
        ("adapter", {"width": 0}, "width must be at least 1"),
        ("adapter", {"placement": "attn"}, "placement 'attn' is not known; valid: mlp, houlsby"),
        ("adaptformer", {"width": 0}, "width must be at least 1"),
        ("vpt_deep", {"tokens": 0}, "tokens must be at least 1, not 0"),
        ("vpt_shallow", {"tokens": -1}, "tokens must be at least 1, not -1"),
        ("noah", {"widths": (1, 100)}, "rank 100 does not suit"),
        ("noah", {"widths": (0, 5)}, "widths must be positive"),
        ("noah", {"config": {"prompt": (1,)}}, "a configuration has 6 widths for each of prompt, lora, adapter"),
        ("noah", {"config": dict.fromkeys(PARTS, (-1,) * 6)}, "widths of a configuration are 0 or more"),
    ],
    ids=str,
)
def test_a_wrong_option_is_an_error_before_anything_changes(method, options, message):
    model = vit()
    before = [(name, type(module)) for name, module in model.named_modules()]
    with pytest.raises(ValueError, match=message):
        METHODS[method](model, **options)
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert all(p.requires_grad for p in model.parameters())


def test_fact_needs_layers_of_multiples_of_the_width():
    with pytest.raises(ValueError, match=r"layer 'blocks.0.mlp.fc1', 64 -> 96, does not divide into matrices of 64 x 64"):
        METHODS["fact_tt"](vit(mlp_ratio=1.5))


def test_ssf_needs_layer_norms_to_fuse_into():
    with pytest.raises(ValueError, match="'blocks.0.norm1' is a RmsNorm, the method needs LayerNorm"):
        METHODS["ssf"](vit(norm_layer="rmsnorm"))


def test_ssf_needs_weights_to_fuse_into_and_changes_nothing_before_it_knows():
    model = vit()
    model.norm = nn.LayerNorm(64, elementwise_affine=False)
    with pytest.raises(ValueError, match="SSF needs a weight to fuse into"):
        METHODS["ssf"](model)
    assert type(model.blocks[0].attn.qkv) is nn.Linear
    assert all(p.requires_grad for p in model.parameters())


def test_lora_apart_needs_three_equal_parts():
    with pytest.raises(ValueError, match="64 outputs are no fused queries, keys and values"):
        LoRALinear(nn.Linear(8, 64), 2, apart=True)


def test_bitfit_needs_a_bias():
    with pytest.raises(ValueError, match="has no bias that BitFit could train"):
        METHODS["bitfit"](vit(norm_layer="rmsnorm", qkv_bias=False, proj_bias=False, pre_norm=True))


def test_a_layer_is_not_adapted_twice():
    with pytest.raises(ValueError, match="'blocks.0.attn.qkv' is a ScaledShifted, the method needs Linear"):
        METHODS["repadapter"](METHODS["ssf"](vit()))


def test_a_width_that_noah_does_not_store_is_an_error():
    net = METHODS["noah"](vit())
    with pytest.raises(ValueError, match="width 11 of prompt is not in storage; valid there: 0 to 10"):
        net.use(net.stored | {"prompt": (11,) * 6})


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_model_that_is_saved_whole_is_the_same_when_it_is_loaded(method, tmp_path):
    net = move(METHODS[method](vit(), **({"side": 2} if method == "superlora_lonkr" else {}))).eval()
    torch.save(net, tmp_path / "net.pt")
    again, x = torch.load(tmp_path / "net.pt", weights_only=False), images()
    assert torch.equal(again(x), net(x))
    if method.startswith("vpt"):
        assert torch.equal(again.forward_intermediates(x)[0], net.forward_intermediates(x)[0])


def test_an_unknown_method_is_refused_with_the_valid_ones():
    with pytest.raises(KeyError, match="no method 'lorra'; valid: linear, full, .*glora"):
        METHODS["lorra"]
    assert METHODS.get("lorra") is None
