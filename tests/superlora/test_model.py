"""Whole models: any kind of module, the same function before, while and after, and full fine-tuning as the limit."""

import copy
from collections import OrderedDict

import pytest
import torch
from fixtures.vits import VITS, images, move, vit
from torch import nn
from torch.nn.utils import weight_norm

from glora_lib.glora.model import fuse
from glora_lib.methods import METHODS
from glora_lib.superlora import PRESETS, Part, SuperLoRA, queries_and_values
from glora_lib.superlora.model import shapes_of

pytestmark = pytest.mark.usefixtures("one_thread")


def convolutions() -> nn.Module:
    """Return a small network with convolutions, a linear layer without bias and an embedding."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(96, 5)).double()


def llama() -> nn.Module:
    """Return a tiny LLaMA, in which keys and values have fewer heads than queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, **sizes)).double().eval()


SETTINGS = [
    SuperLoRA.dense(),
    SuperLoRA.lora(r=2),
    SuperLoRA.lora(r=2, groups=3, shape="fold"),
    SuperLoRA.loha(r=2),
    SuperLoRA.lokr(r=1),
    SuperLoRA.lonkr(r=2, splits=3, side=2),
    SuperLoRA.lorta(r=2, order=4),
    SuperLoRA.lorta(r=2, projection="shuffle", seed=3),
    SuperLoRA.lora(r=2, groups=1, shape="fold", projection="fastfood", ratio=0.3, seed=3),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@torch.no_grad()
def test_any_weights_of_any_model_are_changed_and_fused_back(setting):
    model, x = convolutions(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before, plain = {k: v.clone() for k, v in model.state_dict().items()}, model(x)
    net = setting.adapt(model, [Part(name) for name in ("0", "2", "4")], train=("4",)).eval()
    torch.testing.assert_close(net(x), plain, rtol=0, atol=1e-12)
    move(net.groups, by=0.3)
    changed = net(x)
    assert (changed - plain).abs().max() > 1e-3
    fused = fuse(net)
    torch.testing.assert_close(fused(x), changed, rtol=0, atol=1e-12)
    assert [(n, type(m)) for n, m in fused.named_modules()] == [(n, type(m)) for n, m in model.named_modules()]
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    for part, change in zip(net.grouping.parts, net.changes(), strict=True):
        torch.testing.assert_close(fused.get_submodule(part.module).weight, before[f"{part.module}.weight"] + change)


def gpt2() -> nn.Module:
    """Return a tiny GPT-2, whose weights have the outputs last, and queries, keys and values in one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4)).double().eval()


@torch.no_grad()
def test_gpt_2_s_queries_and_values_are_columns():
    model, tokens = gpt2(), torch.arange(12).view(2, 6)
    net = move(SuperLoRA.lora(r=2).adapt(model, queries_and_values(shapes_of(model)), train=()), by=0.3)
    weight = net.weights()["transformer.h.1.attn.c_attn.weight"] - model.transformer.h[1].attn.c_attn.weight
    assert [bool(part.any()) for part in weight.chunk(3, dim=1)] == [True, False, True]
    A, B = net.groups[2].unit.factors
    torch.testing.assert_close(weight[:, :32], A @ B.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(fuse(net)(input_ids=tokens).logits, net(input_ids=tokens).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("setting", [SuperLoRA.dense(), SuperLoRA.lora(r=2), SuperLoRA.lorta(r=2, order=3)], ids=str)
@torch.no_grad()
def test_a_language_model_is_a_model_too(setting):
    model, tokens = llama(), torch.arange(12).view(2, 6)
    plain = model(input_ids=tokens).logits
    net = setting.adapt(model, queries_and_values(shapes_of(model)), train=())
    assert [part.module.rpartition(".")[2] for part in net.grouping.parts] == ["q_proj", "v_proj"] * 2
    assert torch.equal(net(input_ids=tokens).logits, plain)
    move(net.groups, by=0.3)
    changed = net(input_ids=tokens).logits
    assert (changed - plain).abs().max() > 1e-3
    torch.testing.assert_close(fuse(net)(input_ids=tokens).logits, changed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", ["weight", "layer", 1, 5])
def test_dense_is_full_fine_tuning_of_those_weights(groups):
    """Step by step: the gradients are the weights' own, and stochastic gradient descent leads to the same model."""
    torch.manual_seed(1)
    x, y = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.randint(0, 5, (6,))
    model = convolutions()
    own = copy.deepcopy(model).requires_grad_(False)
    weights = [own.get_submodule(name).weight.requires_grad_() for name in ("0", "2")]
    net = SuperLoRA.dense(groups=groups).adapt(model, [Part("0"), Part("2")], train=())
    ours = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    for _ in range(5):
        for optimizer, f in ((ours, net), (theirs, own)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(f(x), y).backward()
            optimizer.step()
    torch.testing.assert_close(fuse(net)(x), own(x), rtol=0, atol=1e-12)
    assert (own(x) - model(x)).abs().max() > 1e-3


def test_one_group_a_weight_is_lora_weight_by_weight():
    """A number of groups equal to that of equal weights is the weight-wise setting."""
    nets = []
    for groups in ("weight", 12):
        torch.manual_seed(0)
        nets.append(move(METHODS["superlora_lora"](vit(), r=3, groups=groups)))
    assert len(nets[0].groups) == 12
    assert all(torch.equal(*pair) for pair in zip(*(net.changes() for net in nets), strict=True))


def test_queries_and_values_of_a_vit_change_and_keys_do_not():
    net = move(METHODS["superlora_lora"](vit(), r=3))
    d = net.model.embed_dim
    for i, block in enumerate(net.model.blocks):
        change = net.weights()[f"blocks.{i}.attn.qkv.weight"] - block.attn.qkv.weight
        q, v = net.groups[2 * i], net.groups[2 * i + 1]
        torch.testing.assert_close(change[:d], q.unit.factors[0] @ q.unit.factors[1].T, rtol=0, atol=1e-12)
        torch.testing.assert_close(change[2 * d :], v.unit.factors[0] @ v.unit.factors[1].T, rtol=0, atol=1e-12)
        assert not change[d : 2 * d].any()


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_is_the_backbone_at_first_on_every_vit(name, preset):
    options = {"side": 2} if preset == "lonkr" else {}
    net = METHODS[f"superlora_{preset}"](vit(name), **options).eval()
    torch.testing.assert_close(net(images(name)), vit(name)(images(name)), rtol=0, atol=1e-12)


def test_the_same_seed_gives_the_same_projection_and_groups_have_their_own():
    nets = [SuperLoRA.dense(groups=2, projection="shuffle", seed=seed).adapt(convolutions(), [Part("0"), Part("4")], train=())
            for seed in (0, 0, 1)]  # fmt: skip
    orders = [[group.projection.order.tolist() for group in net.groups] for net in nets]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert orders[0][1] == orders[2][0]  # group g has seed + g
    assert not [name for name in nets[0].state_dict() if "projection" in name]


@torch.no_grad()
def test_the_rank_that_a_unit_reaches():
    """Of dW of one weight: r for LoRA, up to r^2 for LoHa, the product of the factors' ranks for Kronecker, more for CP."""
    ranks = {}
    for name, setting in {
        "lora": SuperLoRA.lora(r=3),
        "loha": SuperLoRA.loha(r=3),
        "lokr": SuperLoRA.lokr(r=2),
        "fold": SuperLoRA.lora(r=3, groups=1, shape="fold"),
        "cp": SuperLoRA.lorta(r=3, core="identity"),
    }.items():
        net = move(setting.adapt(nn.Sequential(nn.Linear(64, 64)).double(), [Part("0")], train=()), by=0.5)
        ranks[name] = int(torch.linalg.matrix_rank(net.changes()[0]))
    assert ranks == {"lora": 3, "loha": 9, "lokr": 8 * 2, "fold": 3, "cp": 12}


def test_the_head_is_trained_by_the_rule_that_all_share():
    trained = lambda model: [name for name, p in model.named_parameters() if p.requires_grad]  # noqa: E731
    for train, names in ((None, ["fc.weight", "fc.bias"]), ("fc", ["fc.weight", "fc.bias"]), ((), [])):
        model = nn.Sequential(OrderedDict(layer=nn.Linear(4, 4), fc=nn.Linear(4, 2)))
        SuperLoRA.lora(r=2).adapt(model, [Part("layer")], train=train)
        assert trained(model) == names
    with pytest.raises(ValueError, match="no module is called 'head'"):
        SuperLoRA.lora(r=2).adapt(model, [Part("layer")], train=("head",))
    with pytest.warns(UserWarning, match="has no head that would be trained whole"):
        SuperLoRA.lora(r=2).adapt(nn.Sequential(nn.Linear(4, 4)), [Part("0")])


def test_what_would_change_in_silence_is_refused_before_anything_is_changed():
    tied = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="0 and 1 share one weight, which cannot be changed for '1' alone"):
        SuperLoRA.lora(r=2).adapt(tied, [Part("1")], train=())
    normed = nn.Sequential(weight_norm(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match="layer '0' computes its weight"):
        SuperLoRA.lora(r=2).adapt(normed, [Part("0")], train=())
    adapted = SuperLoRA.lora(r=2).adapt(nn.Sequential(nn.Linear(4, 4)), [Part("0")], train=())
    with pytest.raises(ValueError, match="is a SuperLoRAModel already"):
        SuperLoRA.lora(r=2).adapt(adapted, [Part("model.0")], train=())
    assert all(p.requires_grad for model in (tied, normed) for p in model.parameters())


def test_gradient_checkpointing_would_compute_with_other_weights_and_is_refused():
    model = vit()
    net = SuperLoRA.lora(r=2).adapt(model, queries_and_values(shapes_of(model)))
    model.set_grad_checkpointing(True)
    x = images(1)
    with pytest.raises(ValueError, match="turn gradient checkpointing off"):
        net(x)
    with torch.no_grad():  # nothing is computed again there
        assert net(x).isfinite().all()
