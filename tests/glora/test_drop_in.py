"""Layers that stand in for torch's, and models that adapting must not spoil."""

import copy
import random
import warnings
from collections import OrderedDict

import pytest
import timm
import torch
import transformers
from fixtures.vits import images, move, vit
from torch import nn
from torch.nn.utils import parametrizations, prune

from glora_lib.glora.adapt import adapt
from glora_lib.glora.fusable import Fusable, StandIn
from glora_lib.glora.layer import GLoRALinear, check_whole
from glora_lib.glora.model import fuse
from glora_lib.glora.space import Choice, Space
from glora_lib.methods import METHODS
from glora_lib.methods.fact import fact_tt
from glora_lib.methods.lora import LoRALinear

E = Choice(E="vector")
EVERY = Choice("lora2", "vector", "vector", "vector", "vector")


def mlp(**options) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6, **options), nn.ReLU(inplace=True), nn.Linear(6, 3, **options))


def filled(net: nn.Module, choice: Choice) -> nn.Module:
    net.use(dict.fromkeys(net.layer_names, choice))
    return move(net)


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (6,)], ids=str)
@pytest.mark.parametrize("B", ["none", "vector", "lora2"])
def test_an_activation_may_change_the_output_in_place(shape, B):
    net = filled(adapt(mlp(), rank=2, train=()), Choice("vector", B, "vector", "vector", "vector"))
    x, gradients = torch.randn(shape), []
    for fast in (True, False):
        for name in net.layer_names:
            net.layer(name).fast = fast
        net.zero_grad()
        net(x).square().sum().backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    for fast, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("method", ["lora", "repadapter", "fact_tt", "fact_tk", "ssf", "glora"])
@torch.no_grad()
def test_what_stands_for_a_linear_layer_has_its_attributes(method):
    base, net = vit(), move(METHODS[method](vit())).eval()
    if method == "glora":
        net.use(dict.fromkeys(net.layer_names, Choice("lora2", "vector", "vector", "vector", "vector")))
    layer, linear = (m.get_submodule("blocks.1.mlp.fc1") for m in (getattr(net, "model", net), base))
    assert isinstance(layer, StandIn)
    x = torch.randn(5, 64, dtype=torch.float64)
    assert (layer.in_features, layer.out_features) == (linear.in_features, linear.out_features)
    torch.testing.assert_close(layer(input=x), nn.functional.linear(x, layer.weight, layer.bias))
    torch.testing.assert_close(fuse(net).blocks[1].mlp.fc1.weight, layer.weight)
    assert (layer(x) - linear(x)).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["lora", "repadapter", "fact_tt", "ssf", "glora"])
def test_hooks_go_on_running_and_their_handles_remove_them(method):
    model, seen = vit(), []
    layer = model.blocks[0].mlp.fc1
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    layer.register_forward_pre_hook(lambda module, args, kwargs: seen.append(args[0]), with_kwargs=True)
    net = move(METHODS[method](model)).eval()
    standing = getattr(net, "model", net).blocks[0].mlp.fc1
    with torch.no_grad():
        net(images())
        assert len(seen) == 2
        torch.testing.assert_close(seen[1], standing(seen[0]), rtol=0, atol=1e-12)
        del seen[:]
        fuse(net)(images())
        assert len(seen) == 2  # on the plain layer too
        handle.remove()
        del seen[:]
        net(images())
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224", "swinv2_tiny_window8_256"])
@torch.no_grad()
def test_a_layer_whose_bias_nobody_reads_refuses_what_would_have_no_effect(name):
    """These read qkv.weight, and keep the biases of queries and values apart: A and B are felt there, C, D and E are not."""
    options = {"img_size": 28 if "14" in name else 32, "depth": 1, "embed_dim": 24, "num_heads": 2}
    if "swin" in name:
        options = {"img_size": 32, "depths": (1,), "embed_dim": 24, "num_heads": (2,)}
    model = timm.create_model(name, num_classes=3, **options).eval()
    for parameter in model.parameters():  # some start at zero, so that nothing before them is felt
        parameter.normal_(std=0.3)
    x, plain = torch.randn(2, 3, options["img_size"], options["img_size"]), copy.deepcopy(model)
    net = move(adapt(model, rank=2))
    plain.head = copy.deepcopy(net.model.head)
    (qkv,) = [layer for layer in net.layer_names if layer.endswith("qkv")]
    assert [layer for layer in net.layer_names if net.kinds[layer] == "weight"] == [qkv]
    with pytest.raises(ValueError, match=f"layer '{qkv}': E cannot be 'vector' here: the layer has no bias"):
        net.use({layer: E if layer == qkv else Choice() for layer in net.layer_names})
    for layer in (layer for layer in net.layer_names if "cpb" not in layer):
        for tensor in "ABCDE" if net.kinds[layer] == "linear" else "AB":
            choice = Choice(**{tensor: "lora2" if tensor in "ABC" else "vector"})
            net.use({other: choice if other == layer else Choice() for other in net.layer_names})
            assert (net(x) - plain(x)).abs().max() > 1e-6, (layer, tensor)
    for seed in range(3):
        net.use(Space(net.layer_names, (2,), net.kinds).sample(random.Random(seed)))
        torch.testing.assert_close(fuse(net)(x), net(x), rtol=1e-4, atol=1e-4)


def test_a_model_that_reads_a_weight_in_another_way_is_found_out_when_it_is_called():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(nn.functional.linear(x, self.read.weight))

    net = adapt(Reader(), rank=2)
    filled(net, Choice("lora2", "vector"))(torch.randn(2, 6)).sum().backward()
    assert net.layer("read").Bd.grad is not None
    with pytest.raises(ValueError, match="layer 'read' is not called: the model reads its weight, but not its bias"):
        net.use({"read": E})(torch.randn(2, 6))
    unbiased = adapt(Reader(), rank=2, gain_bias=False)
    with pytest.raises(ValueError, match="E cannot be 'vector' here"):
        unbiased.use({"read": E})


def test_methods_that_would_add_a_bias_nobody_reads_are_refused():
    options = {"num_classes": 3, "img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2}
    model = timm.create_model("beit_base_patch16_224", **options)
    with pytest.raises(ValueError, match="the `blocks` of Beit are a ModuleList"):
        METHODS["ssf"](model)
    net = move(METHODS["lora"](model)).eval()
    x = torch.randn(2, 3, 32, 32)
    assert isinstance(net.blocks[0].attn.qkv, LoRALinear)
    torch.testing.assert_close(fuse(net)(x), net(x), rtol=1e-5, atol=1e-5)
    model.blocks = nn.Sequential(*timm.create_model("beit_base_patch16_224", **options).blocks)
    for method in ("ssf", "repadapter"):
        with pytest.raises(ValueError, match=r"(keeps the bias of 'blocks.0.attn.qkv' apart|no layer 'blocks.0.ls)"):
            METHODS[method](timm_with(model.blocks, options))


def timm_with(blocks, options):
    model = timm.create_model("beit_base_patch16_224", **options)
    model.blocks = copy.deepcopy(blocks)
    return model


# what adapting leaves out


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.mlp(self.attention(x, x, x)[0]).mean(1))


def test_what_is_left_out_is_listed_with_its_share():
    with pytest.warns(UserWarning, match=r"1 MultiheadAttention \(74% of the parameters\)"):
        net = adapt(Attention(), rank=2)
    (entry,) = net.left_out
    assert (entry.kind, entry.modules, entry.parameters) == ("MultiheadAttention", 1, 4 * 8 * 8 + 4 * 8)
    assert entry.share == pytest.approx(288 / (288 + 72 + 27))
    assert "left out: 1 MultiheadAttention" in repr(net)
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50))
    with pytest.warns(UserWarning, match="4 Conv1D"):
        assert {entry.kind for entry in adapt(gpt, rank=2).left_out} == {"Conv1D", "Embedding"}
    assert [entry.kind for entry in adapt(vit()).left_out] == ["VisionTransformer", "Conv2d"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(vit())  # which has nothing but linear layers


# fusion


class Foreign(nn.Module):
    """A block with a `fuse` of its own, as LeViT's have: it is nobody's business here."""

    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.linear(x))

    def fuse(self):
        raise AssertionError("called by name")


@torch.no_grad()
def test_lora_says_what_it_leaves_out():
    model = nn.Sequential(OrderedDict(block=nn.TransformerEncoderLayer(8, 2, 16), head=nn.Linear(8, 2)))
    with pytest.warns(UserWarning, match=r"left out of Sequential, .* 1 MultiheadAttention \(47% of the parameters\)"):
        METHODS["lora"](model)
    convolution = nn.Sequential(OrderedDict(layer=parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), head=nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="layer 'layer' is parametrized"):
        METHODS["lora"](convolution, rank=2, placement="conv")
    assert all(p.requires_grad for p in convolution.parameters())


def test_only_modules_of_ours_are_fused():
    net, x = adapt(nn.Sequential(Foreign()), rank=2).eval(), torch.randn(2, 6)
    filled(net, EVERY)
    assert type(fuse(net)[0]) is Foreign
    torch.testing.assert_close(fuse(net)(x), net(x))
    levit = timm.create_model("levit_128s", num_classes=3, img_size=224).eval()
    levit = adapt(levit, rank=2).eval()
    filled(levit, E)
    x = torch.randn(1, 3, 224, 224)
    plain = fuse(levit)
    torch.testing.assert_close(plain(x), levit(x), rtol=1e-4, atol=1e-4)
    assert sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in plain.modules()) == 52


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_not_fused(value):
    net = filled(adapt(mlp(), rank=2, train=()), EVERY)
    net.layer("0").E.data[0] = value
    with pytest.raises(ValueError, match="0.bias of the fused model has NaN or infinity"):
        fuse(net)
    head = adapt(vit())
    head.model.head.weight.data[0, 0] = value
    with pytest.raises(ValueError, match="head.weight of the fused model has NaN or infinity"):
        fuse(head)


def test_a_buffer_that_is_not_finite_is_refused_and_a_mask_is_not():
    model = timm.create_model("test_resnet", num_classes=3)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    fuse(adapt(model, rank=2, layers="conv"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var[0] = float("nan")
    with pytest.raises(ValueError, match="running_var of the fused model has NaN or infinity"):
        fuse(METHODS["linear"](timm_copy(model)))


def timm_copy(model: nn.Module) -> nn.Module:
    """The same buffers in a model that nothing has adapted."""
    plain = timm.create_model("test_resnet", num_classes=3)
    plain.load_state_dict({name: t for name, t in model.state_dict().items() if "running" in name}, strict=False)
    return plain


@torch.no_grad()
def test_wrappers_and_models_inside_models_are_fused_to_plain_ones():
    x = torch.randn(2, 6)
    for wrap in (nn.DataParallel, lambda net: nn.Sequential(nn.Identity(), net), torch.compile):
        net = filled(adapt(mlp(), rank=2, train=()), EVERY)
        plain = fuse(wrap(net))
        assert not any(isinstance(module, Fusable) for module in plain.modules())
        torch.testing.assert_close(plain(x), net(x))
    net = filled(adapt(torch.compile(mlp()), rank=2, train=()), EVERY)
    assert type(fuse(net)) is nn.Sequential
    torch.testing.assert_close(fuse(net)(x), net.model._orig_mod(x))


def llama(**options) -> nn.Module:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, **options)).eval()


@torch.no_grad()
def test_tied_weights_stay_tied_where_nothing_was_chosen():
    net = adapt(llama(tie_word_embeddings=True), rank=2)
    number = sum(p.numel() for p in llama(tie_word_embeddings=True).parameters())
    plain = fuse(net)
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    assert plain.lm_head.weight is not net.model.lm_head.W0
    assert sum(p.numel() for p in plain.parameters()) == number
    move(net)
    net.use(net.config | {"lm_head": Choice(B="vector")})
    with pytest.warns(UserWarning, match="lm_head.weight of the fused model is its own, no longer that of model.embed_tokens"):
        plain = fuse(net)
    tokens = torch.arange(10)[None]
    torch.testing.assert_close(plain(tokens).logits, net(tokens).logits)


@torch.no_grad()
def test_two_layers_with_one_weight_share_it_again_when_fused():
    model = mlp(bias=False)[::2]
    model[1] = nn.Linear(6, 6, bias=False)
    model[1].weight = model[0].weight
    plain = fuse(adapt(model, rank=2, train=()))
    assert plain[0].weight is plain[1].weight


@torch.no_grad()
def test_lora_on_one_layer_in_two_places_is_one_and_a_tie_that_it_ends_is_named():
    model = nn.Sequential(layer := nn.Linear(6, 6), nn.ReLU(), layer)
    model.add_module("head", nn.Linear(6, 2))
    net, x = move(METHODS["lora"](model, rank=2)).eval(), torch.randn(4, 6)
    assert net[0] is net[2]
    assert isinstance(net[0], LoRALinear)
    plain = fuse(net)
    assert plain[0] is plain[2]
    assert type(plain[0]) is nn.Linear
    torch.testing.assert_close(plain(x), net(x))
    tied = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6), nn.Linear(6, 6))
    tied[1].weight = tied[0].weight
    tied[2].bias = tied[1].bias
    tied.add_module("head", nn.Linear(6, 2))
    with pytest.warns(UserWarning, match="1.weight of the fused model is its own, no longer that of 0"):
        plain = fuse(move(METHODS["lora"](tied, rank=2)))
    assert plain[1].bias is plain[2].bias  # LoRA leaves biases as they are


@torch.no_grad()
def test_without_gained_biases_a_fused_model_goes_through_save_pretrained(tmp_path):
    net = adapt(llama(), rank=2, gain_bias=False)
    assert set(net.kinds.values()) == {"weight"}
    move(net)
    space = Space(net.layer_names, (2,), net.kinds)
    net.use(space.sample(random.Random(0)))
    plain, tokens = fuse(net), torch.arange(10)[None]
    assert plain.state_dict().keys() == llama().state_dict().keys()
    plain.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert (again(tokens).logits - llama()(tokens).logits).abs().max() > 1e-3
    torch.testing.assert_close(again(tokens).logits, net(tokens).logits)


# models that are refused before anything is changed


def shares_with_the_head(model):
    model[2] = nn.Linear(6, 6)
    model[2].weight = model[0].weight
    return {"train": ("2",)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: nn.utils.weight_norm(m[2]), "layer '2' computes its weight"),
        (lambda m: nn.utils.spectral_norm(m[2]), "layer '2' computes its weight"),
        (lambda m: prune.l1_unstructured(m[2], "weight", 0.5), "layer '2' computes its weight"),
        (lambda m: prune.l1_unstructured(m[2], "bias", 0.5), "layer '2' computes its bias"),
        (lambda m: setattr(m[2], "forward", lambda input: input), "layer '2' has a `forward` of its own"),
        (lambda m: setattr(m, "2", GLoRALinear(m[2])), "'2' is a GLoRALinear already"),
        (shares_with_the_head, "layer '0' shares a parameter with what is trained whole"),
        (lambda m: {"rank": 1000}, "rank 1000 is above every dimension of the layers, the largest of which is 6"),
        (lambda m: {"rank": 0}, "rank must be at least 1, not 0"),
    ],
    ids=["weight norm", "spectral norm", "pruned", "bias pruned", "forward", "adapted", "shared", "rank 1000", "rank 0"],
)
def test_what_cannot_be_adapted_is_refused_and_left_as_it_was(spoil, message):
    model = mlp()
    arguments = spoil(model)
    arguments = {"rank": 2, "train": ()} | (arguments if isinstance(arguments, dict) else {})
    before = [(name, type(module)) for name, module in model.named_modules()], [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        adapt(model, **arguments)
    after = [(name, type(module)) for name, module in model.named_modules()], [p.requires_grad for p in model.parameters()]
    assert after == before


@pytest.mark.parametrize("value", [2.0, "4", True, None])
def test_numbers_are_whole(value):
    with pytest.raises(ValueError, match=f"rank must be an integer, not {value!r}"):
        check_whole(value, "rank")


def test_a_layer_with_weight_norm_may_be_skipped_and_one_with_a_parametrization_is_left_out():
    model = mlp()
    nn.utils.weight_norm(model[2])
    assert adapt(model, rank=2, train=(), skip="2").layer_names == ("0",)
    model = mlp()
    parametrizations.weight_norm(model[2])
    with pytest.warns(UserWarning, match="1 ParametrizedLinear"):
        assert adapt(model, rank=2, train=()).layer_names == ("0",)


@pytest.mark.parametrize("second", METHODS)
@pytest.mark.parametrize("first", ["lora", "glora", "vpt_shallow", "ssf", "adapter"])
def test_one_method_on_top_of_another_is_refused(first, second):
    net = METHODS[first](vit())
    trained = [name for name, p in net.named_parameters() if p.requires_grad]
    with pytest.raises(ValueError, match=r"already|has no `blocks`|the method needs"):
        METHODS[second](net)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == trained


def test_an_adapter_of_peft_is_refused():
    import peft

    model = peft.get_peft_model(vit(), peft.LoraConfig(r=2, target_modules=r"blocks\..*qkv"))
    for change in (adapt, METHODS["lora"], METHODS["full"]):
        with pytest.raises(ValueError, match="is adapted by peft; `merge_and_unload` the model before"):
            change(model)


def test_weights_changed_behind_autograd_s_back_count_at_the_next_step():
    layer = GLoRALinear(nn.Linear(6, 6), rank=2).use(Choice(B="lora2"))
    x = torch.randn(4, 6)
    for change in (lambda: layer.W0.data.mul_(3), lambda: layer.W0.data[0].add_(1), lambda: None):
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        torch.testing.assert_close(y.float(), nn.functional.linear(x, *layer.effective()), rtol=2e-2, atol=5e-2)
        change()


def test_an_attribute_of_the_model_inside_is_pointed_to():
    with pytest.raises(AttributeError, match=r"no attribute 'blocks'; the model inside has it: net.model.blocks"):
        adapt(vit()).blocks  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nothing'$"):
        adapt(vit()).nothing  # noqa: B018


def test_fact_shares_its_factors_after_a_copy():
    net = copy.deepcopy(fact_tt(vit(), rank=2))
    assert net.blocks[0].attn.qkv.factors is net.blocks[1].attn.qkv.factors
