"""GLoRA on whole models: which layers are adapted, what is trained, configurations, and fusion."""

import random

import pytest
import timm
import torch
from fixtures.formula import randomise
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from glora_lib.glora.adapt import adapt
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.model import AdaptedModel, formed, fuse
from glora_lib.glora.space import Choice, Space


def vit(**kwargs) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=3, img_size=32, **kwargs).eval()


class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3072, 8, bias=False), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return super().forward(x.flatten(1))


class ConvNet(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(256, 5)
        self.head = nn.Linear(5, 3)


class Shared(nn.Module):
    """The same linear layer in two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3072, 6)
        self.second = nn.Linear(6, 6)
        self.third = self.second
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.third(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1)))))))


class Encoder(nn.Module):
    """torch's own encoder layer, whose fast path for inference reads weights and never calls its linear layers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(96, 4, 32, batch_first=True)
        self.head = nn.Linear(96, 3)

    def forward(self, x):
        return self.head(self.layer(x.flatten(2).permute(0, 2, 1).reshape(len(x), -1, 96)).mean(1))


MODELS = pytest.mark.parametrize("make", [vit, Mlp, ConvNet, Shared, Encoder])


def random_subnet(net: AdaptedModel, seed: int = 0) -> dict[str, Choice]:
    """Give every support tensor random values and choose a random configuration, which is returned."""
    generator = torch.Generator().manual_seed(seed)
    for name in net.layer_names:
        layer = net.layer(name)
        for tensor in ("Ad", "Au", "Bd", "Bu", "Cd", "Cu", "D", "E"):
            randomise(nn.ParameterList([getattr(layer, tensor)]), generator)
            getattr(layer, tensor).data.mul_(0.3)
    config = Space(net.layer_names, (net.layer(net.layer_names[0]).rank,)).sample(random.Random(seed))
    net.use(config)
    return config


def images(dtype=torch.float32) -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (vit, [f"blocks.{i}.{name}" for i in range(6) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]),
        (Mlp, ["body.0", "body.2"]),
        (ConvNet, ["fc"]),
        (Shared, ["first", "second"]),
        (Encoder, ["layer.linear1", "layer.linear2"]),
    ],
)
def test_layers_are_keyed_by_their_names_in_the_model_s_order(make, expected):
    net = adapt(make())
    assert list(net.layer_names) == expected == list(net.config) == list(net.shapes)
    for name in expected:
        assert isinstance(net.layer(name), GLoRALinear)
        assert net.shapes[name] == tuple(net.layer(name).W0.shape)


def test_vit_b_16_has_48_layers_and_the_supernet_3_041_664_parameters():
    with torch.device("meta"):
        net = adapt(timm.create_model("vit_base_patch16_224", num_classes=10), rank=8)
    assert len(net.layer_names) == 48
    assert Space(net.layer_names).count() == 432**48
    trained = {name: p.numel() for name, p in net.model.named_parameters() if p.requires_grad}
    head = {name for name in trained if name.startswith("head")}
    assert head == {"head.weight", "head.bias"}
    assert sum(number for name, number in trained.items() if name not in head) == 3_041_664


@MODELS
def test_all_but_the_support_tensors_and_the_head_is_frozen(make):
    net = adapt(make())
    support = {f"{name}.{part}" for name in net.layer_names for part in ("Ad", "Au", "Bd", "Bu", "Cd", "Cu", "D", "E")}
    trained = {name for name, parameter in net.model.named_parameters() if parameter.requires_grad}
    assert trained == support | {"head.weight", "head.bias"}


def test_what_is_trained_whole_is_an_argument():
    net = adapt(Mlp(), train=("body.2",))
    assert net.layer_names == ("body.0", "head")
    assert net.model.body[2].weight.requires_grad
    assert net.layer("head").Ad.requires_grad
    assert not net.layer("head").W0.requires_grad


@MODELS
@torch.no_grad()
def test_adapting_changes_no_weight_and_so_no_output_whatever_is_chosen(make):
    model = make().eval()
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters()}
    expected = model(images())
    net = adapt(model)
    rng = random.Random(0)
    for config in (net.config, *(Space(net.layer_names).sample(rng) for _ in range(3))):
        net.use(config)
        for name in net.layer_names:
            weight, bias = net.layer(name).effective()
            assert torch.equal(weight, frozen[f"{name}.weight"])
            none = torch.zeros(len(weight))
            assert torch.equal(none if bias is None else bias, frozen.get(f"{name}.bias", none))
        # equal numbers, but the processor's library may sum a product of them in another order from call to call
        torch.testing.assert_close(net(images()), expected, rtol=0, atol=1e-6)


@MODELS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
@torch.no_grad()
def test_the_fused_model_has_the_same_function_classes_names_and_cost(make, dtype, tolerance):
    plain, net = make().eval().to(dtype), adapt(make().eval().to(dtype))
    base, cost = plain(images(dtype)), flops(plain, dtype)
    for seed in range(2):
        random_subnet(net, seed)
        fused = fuse(net).eval()
        expected, got = net(images(dtype)), fused(images(dtype))
        assert (expected - base).abs().max() > 1e-2  # there is something to fuse
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
        assert [(name, type(module)) for name, module in fused.named_modules()] == [
            (name, type(module)) for name, module in plain.named_modules()
        ]
        gained = {"body.0.bias"} if make is Mlp else set()  # a layer without bias may gain one
        assert set(fused.state_dict()) - gained == set(plain.state_dict())
        for name, parameter in plain.named_parameters():
            assert fused.get_parameter(name).shape == parameter.shape
    assert flops(fused, dtype) == cost > 0


def flops(model: nn.Module, dtype: torch.dtype) -> int:
    with FlopCounterMode(display=False) as counter:
        model(images(dtype))
    return counter.get_total_flops()


def test_state_dict_of_the_fused_vit_loads_into_a_fresh_backbone():
    net = adapt(vit())
    random_subnet(net)
    fresh = vit()
    fresh.load_state_dict(fuse(net).state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fresh(images()), net(images()), rtol=1e-5, atol=1e-5)


@MODELS
def test_fusing_leaves_the_net_as_it_is_and_shares_nothing_with_it(make):
    net = adapt(make().eval())
    config = random_subnet(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fused = fuse(net)
    with torch.no_grad():
        for tensor in fused.state_dict().values():
            tensor.zero_()
    assert net.config == config
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in fused.parameters())
    assert any(parameter.requires_grad for parameter in net.parameters())


def test_a_layer_in_two_places_is_adapted_once_and_stays_one_when_fused():
    net = adapt(Shared())
    assert net.model.second is net.model.third
    random_subnet(net)
    fused = fuse(net)
    assert fused.second is fused.third
    torch.testing.assert_close(fused(images()), net(images()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_fast_path_of_torch_s_encoder_layer_gets_the_effective_weight(monkeypatch):
    net = adapt(Encoder().double().eval())
    random_subnet(net)
    taken = []
    fast_path = torch._transformer_encoder_layer_fwd
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *args: taken.append(1) or fast_path(*args))
    got = net(images(torch.float64))
    assert taken  # else this test says nothing
    net.model.layer.activation_relu_or_gelu = 0  # keeps torch from the fast path
    torch.testing.assert_close(got, net(images(torch.float64)), rtol=0, atol=1e-10)
    assert len(taken) == 1


@pytest.mark.parametrize(
    ("skip", "missing"),
    [
        (("blocks.0",), {f"blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}),
        (("blocks.2.mlp.fc1",), {"blocks.2.mlp.fc1"}),
        (("proj",), {f"blocks.{i}.attn.proj" for i in range(6)}),
        (("attn", "fc2"), {f"blocks.{i}.{name}" for i in range(6) for name in ("attn.qkv", "attn.proj", "mlp.fc2")}),
    ],
    ids=["block", "layer", "last part", "two"],
)
def test_skip_takes_whole_names_and_last_parts(skip, missing):
    names, net = adapt(vit()).layer_names, adapt(vit(), skip=skip)
    assert set(names) - set(net.layer_names) == missing
    assert all(type(net.model.get_submodule(name)) is nn.Linear for name in missing)
    assert not any(p.requires_grad for name in missing for p in net.model.get_submodule(name).parameters())
    assert net.model.head.weight.requires_grad  # also where skip does not name it


@pytest.mark.parametrize("unknown", ["blocks.6", "block", "fc", "heads"])
def test_a_name_in_skip_that_no_module_has_is_an_error_before_anything_changes(unknown):
    model = vit()
    with pytest.raises(ValueError, match=f"no module is called '{unknown}'"):
        adapt(model, skip=(unknown,))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(isinstance(module, GLoRALinear) for module in model.modules())


def test_a_model_without_a_linear_layer_is_an_error():
    with pytest.raises(ValueError, match="no linear layer to adapt inside this Sequential"):
        adapt(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))


def test_only_plain_linear_layers_are_adapted():
    class Special(nn.Linear):
        pass

    net = adapt(nn.Sequential(nn.Linear(2, 2), Special(2, 2)))
    assert net.layer_names == ("0",)


def lacking(config):
    return {name: choice for name, choice in config.items() if name != "blocks.3.mlp.fc1"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda config: config | {"blocks.3.mlp.fc1": Choice(A="lora16")}, "blocks.3.mlp.fc1.*'lora16' for A.*1 to 8"),
        (lacking, "lacks layers.*blocks.3.mlp.fc1"),
        (lambda config: config | {"blocks.9": Choice()}, "unknown ones.*blocks.9"),
        (lambda config: {}, r"lacks layers .*\(24\)"),
    ],
    ids=["rank", "missing layer", "unknown layer", "empty"],
)
def test_a_wrong_configuration_is_an_error_and_leaves_the_former_in_place(spoil, message):
    net = adapt(vit())
    config = random_subnet(net)
    other = Space(net.layer_names).sample(random.Random(5))
    with pytest.raises(ValueError, match=message):
        net.use(spoil(other))
    assert net.config == config


def test_use_chains_and_an_unknown_layer_is_an_error():
    net = adapt(vit())
    assert net.use(net.config) is net
    with pytest.raises(KeyError, match="no adapted layer 'head'"):
        net.layer("head")


def test_rank_and_scaling_reach_every_layer():
    net = adapt(vit(), rank=3, scale_broadcast=True)
    assert {(net.layer(name).rank, net.layer(name).scale_broadcast) for name in net.layer_names} == {(3, True)}


def test_formed_layers_keep_their_weights_until_the_end_even_of_an_error():
    net, x = adapt(vit(), rank=4).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    space = Space(net.layer_names, (4, 2))
    first, second = (space.sample(random.Random(seed)) for seed in range(2))
    plain, other = (fuse(net.use(config))(x) for config in (first, second))
    net.use(first)

    def broken():
        with torch.no_grad(), formed(net):
            torch.testing.assert_close(net(x), plain)
            torch.testing.assert_close(net.use(second)(x), plain)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    torch.testing.assert_close(net(x), other)
    assert (plain - other).abs().max() > 1e-2
