"""Adapters go to peft and back, through its own loader and merge, and come from LyCORIS, with the same function."""

import copy
import itertools
import json
import random

import peft
import pytest
import timm
import torch
from fixtures.vits import images, move, vit
from lycoris import LycorisNetwork, create_lycoris
from safetensors.torch import load_file, save_file
from torch import nn

from glora_lib.glora.adapt import adapt
from glora_lib.glora.model import AdaptedModel, fuse
from glora_lib.glora.space import Choice, Space
from glora_lib.methods import METHODS
from glora_lib.methods.exchange import ExchangeError
from glora_lib.methods.from_lycoris import from_lycoris
from glora_lib.methods.from_peft import from_peft
from glora_lib.methods.to_peft import to_peft
from glora_lib.superlora import Part, SuperLoRA, queries_and_values
from glora_lib.superlora.model import shapes_of

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::UserWarning")]


def same(net, folder, base, x) -> None:
    """Through peft's loader, merged by peft, read back by us, and fused: four times the same output."""
    expected = net(x)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
    torch.testing.assert_close(theirs(x), expected, rtol=0, atol=1e-6)
    back = from_peft(folder, base)
    torch.testing.assert_close(back(x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(theirs.merge_and_unload()(x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(fuse(back)(x), expected, rtol=0, atol=1e-6)
    assert (base(x) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("placement", ["all", "qkv", "qv"])
@torch.no_grad()
def test_lora_goes_to_peft_and_back(placement, tmp_path):
    net = move(METHODS["lora"](vit(), rank=4, placement=placement, scale=0.5)).eval()
    adapter = to_peft(net, tmp_path)
    assert (adapter.config["peft_type"], adapter.config["modules_to_save"]) == ("LORA", ["head"])
    assert adapter.config["r"] == (8 if placement == "qv" else 4)
    same(net, tmp_path, vit(), images())


@torch.no_grad()
def test_lora_of_separate_queries_and_values_and_of_several_ranks(tmp_path):
    """As in a language model: a layer each; two of them with a rank and a scale of their own."""
    torch.manual_seed(0)
    base = nn.ModuleDict({"q_proj": nn.Linear(6, 6, bias=False), "v_proj": nn.Linear(6, 4), "o_proj": nn.Linear(4, 3)}).double()
    model = Chain(base)
    theirs = peft.get_peft_model(
        copy.deepcopy(model),
        peft.LoraConfig(
            r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 3}
        ),
    )
    move_all(theirs, "lora_")
    theirs.save_pretrained(tmp_path / "theirs")
    x = torch.randn(5, 6, dtype=torch.float64)
    ours = from_peft(tmp_path / "theirs", model)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)
    to_peft(ours, tmp_path / "again")
    same(ours, tmp_path / "again", model, x)


class Chain(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.q_proj, self.v_proj, self.o_proj = parts["q_proj"], parts["v_proj"], parts["o_proj"]

    def forward(self, x):
        return self.o_proj(torch.tanh(self.v_proj(torch.tanh(self.q_proj(x)))))


def move_all(model: nn.Module, named: str) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if named in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("rslora", [False, True])
@torch.no_grad()
def test_lora_of_peft_with_biases_and_convolutions_is_read_exactly(rslora, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    config = peft.LoraConfig(
        r=3, lora_alpha=4, target_modules=r"layer.*conv[12]", bias="all", modules_to_save=["fc"], use_rslora=rslora
    )  # fmt: skip
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    x = torch.randn(2, 3, 32, 32)
    ours = from_peft(tmp_path, model)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fuse(ours)(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ab", "c", "de"),
    list(itertools.product(["lora", "vector", "constant", "none"], ["lora", "vector", "none"], ["vector", "constant", "none"])),
)
@torch.no_grad()
def test_each_of_the_36_choices_of_peft_s_glora_comes_and_goes(ab, c, de, tmp_path):
    if (ab, c, de) == ("none", "none", "none"):
        return
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    config = peft.GloraConfig(r=2, target_modules=["0", "2"], config_A_B=ab, config_C=c, config_D_E=de)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).double()
    move_all(theirs, "glora_")
    theirs.save_pretrained(tmp_path / "theirs")
    x = torch.randn(7, 6, dtype=torch.float64)
    ours = from_peft(tmp_path / "theirs", model)
    assert isinstance(ours, AdaptedModel)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)
    adapter = to_peft(ours, tmp_path / "again")
    assert {name: adapter.config[name] for name in ("config_A_B", "config_C", "config_D_E")} == {
        "config_A_B": ab, "config_C": c, "config_D_E": de,
    }  # fmt: skip
    assert adapter.widened == ()
    assert {name: t.shape for name, t in load_file(tmp_path / "again/adapter_model.safetensors").items()} == {
        name: t.shape for name, t in load_file(tmp_path / "theirs/adapter_model.safetensors").items() if "zeros" not in name
    }
    same(ours, tmp_path / "again", model, x)


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_any_subnet_of_a_vit_goes_to_peft_in_forms_that_hold_it(seed, tmp_path):
    net = move(adapt(vit(), rank=4, scale_broadcast=bool(seed % 2))).eval()
    net.use(Space(net.layer_names, (4, 2)).sample(random.Random(seed)))
    adapter = to_peft(net, tmp_path)
    assert any("as lora4" in text for text in adapter.widened)
    same(net, tmp_path, vit(), images())


@torch.no_grad()
def test_layers_with_nothing_chosen_are_left_out(tmp_path):
    net = move(adapt(vit(), rank=4)).eval()
    chosen = {name: Choice(B="vector") if name.endswith("fc1") else Choice() for name in net.layer_names}
    adapter = to_peft(net.use(chosen), tmp_path)
    assert {name.split(".glora")[0] for name in adapter.tensors if "glora" in name} == {
        f"base_model.model.blocks.{index}.mlp.fc1" for index in range(6)
    }
    same(net, tmp_path, vit(), images())


@torch.no_grad()
def test_what_peft_cannot_express_is_listed_and_nothing_is_written(tmp_path):
    net = move(adapt(vit("no class token, no qkv bias"), rank=2)).eval()
    net.use({name: Choice(A="vector", C="vector", D="vector", E="vector") for name in net.layer_names})
    with pytest.raises(ExchangeError, match="peft cannot express this adapter") as error:
        to_peft(net, tmp_path)
    assert error.value.reasons == [f"blocks.{i}.attn.qkv has no bias, and peft drops C and E there" for i in range(2)]
    assert not list(tmp_path.iterdir())
    net.use({name: Choice(A="vector", D="vector") for name in net.layer_names})  # D has no bias to scale: dropping it is exact
    to_peft(net, tmp_path)
    same(net, tmp_path, vit("no class token, no qkv bias"), images("no class token, no qkv bias"))
    for method, reason in (("repadapter", "blocks.0.attn.qkv is a RepAdaptedLinear"), ("linear", "it has no adapted layer")):
        with pytest.raises(ExchangeError, match=reason):
            to_peft(METHODS[method](vit()))
    convolutions = adapt(timm.create_model("test_resnet", num_classes=3), rank=2, layers=("conv", "norm"))
    convolutions.use(Space(convolutions.layer_names, (2,), convolutions.kinds).sample(random.Random(0)))
    with pytest.raises(ExchangeError, match=r"is a GLoRA(Conv2d|Norm)"):
        to_peft(convolutions)


@pytest.mark.parametrize(
    ("setting", "parts", "config"),
    [
        (SuperLoRA.lora(r=3, scale=0.5), ("qkv",), {"peft_type": "LORA", "r": 6, "lora_alpha": 3.0}),
        (SuperLoRA.loha(r=3), ("qkv",), {"peft_type": "LOHA", "r": 6, "alpha": 6.0}),
        (SuperLoRA.loha(r=2, scale=0.5), ("proj", "fc1"), {"peft_type": "LOHA", "r": 2, "alpha": 1.0}),
        (SuperLoRA.lokr(r=2), ("proj", "fc1"), {"peft_type": "LOKR", "r": 2, "decompose_factor": -1}),
        (SuperLoRA.lokr(r=100), ("proj", "fc1"), {"peft_type": "LOKR", "decompose_factor": -1}),
        (SuperLoRA.lokr(r=2, side=4, left_r=1, scale=0.5), ("proj", "fc1"), {"peft_type": "LOKR", "decompose_factor": 4}),
    ],
)
@torch.no_grad()
def test_superlora_goes_to_peft_where_peft_has_its_form(setting, parts, config, tmp_path):
    model = vit()
    shapes = {name: shape for name, shape in shapes_of(model).items() if name.endswith(parts) and len(shape) == 2}
    chosen = queries_and_values(shapes) if parts == ("qkv",) else [Part(name) for name in shapes]
    net = move(setting.adapt(model, chosen)).eval()
    adapter = to_peft(net, tmp_path)
    assert adapter.config.items() >= config.items()
    assert adapter.config["modules_to_save"] == ["head"]
    assert bool(adapter.widened) == (setting.left_r is not None)
    same(net, tmp_path, vit(), images())


@pytest.mark.parametrize(
    ("preset", "options", "reason"),
    [
        ("lokr", {"r": 2}, "is adapted by rows, which one Kronecker product of the whole weight does not do"),
        ("dense", {}, r"the units \(Dense\) are not LoRA, LoHa or LoKr alone"),
        ("lotr", {"r": 2}, "group 0 has no form in peft: it is no single weight's"),
        ("lora", {"r": 2, "groups": 3, "shape": "fold"}, "group 0 has no form in peft: it is no single weight's"),
        ("lora", {"r": 2, "projection": "shuffle", "seed": 0}, "group 0 has no form in peft: its numbers are projected"),
    ],
)
def test_superlora_that_peft_has_no_form_for_is_listed_and_nothing_is_written(preset, options, reason, tmp_path):
    with pytest.raises(ExchangeError, match=reason) as error:
        to_peft(METHODS[f"superlora_{preset}"](vit(), **options), tmp_path)
    assert len(set(error.value.reasons)) == len(error.value.reasons)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_neither_written_nor_read(tmp_path):
    net = METHODS["lora"](vit(), rank=2)
    to_peft(net, tmp_path / "whole")
    with torch.no_grad():
        net.blocks[0].attn.qkv.down[0, 0, 0] = torch.nan
    with pytest.raises(ExchangeError, match="blocks.0.attn.qkv.lora_A.weight has NaN or infinity"):
        to_peft(net, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    file = tmp_path / "whole" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.head.bias"][0] = torch.inf
    save_file(tensors, file)
    with pytest.raises(ExchangeError, match="is a broken adapter: base_model.model.head.bias has NaN or infinity"):
        from_peft(tmp_path / "whole", vit())
    save_file({"lycoris_head.diff": torch.full((3, 64), torch.nan)}, tmp_path / "lycoris.safetensors")
    with pytest.raises(ExchangeError, match="is a broken adapter: lycoris_head.diff has NaN or infinity"):
        from_lycoris(tmp_path / "lycoris.safetensors", vit())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"peft_type": "OFT"}, "its peft_type is OFT; known here: LORA, GLORA, LOHA, LOKR"),
    ],
)
def test_what_is_not_known_here_is_listed(changes, reason, tmp_path):
    to_peft(move(METHODS["lora"](vit(), rank=2)), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | changes
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ExchangeError, match=reason):
        from_peft(tmp_path, vit())


@pytest.mark.parametrize("change", ["extra", "missing", "name"])
def test_no_tensor_of_a_file_is_passed_over(change, tmp_path):
    to_peft(move(METHODS["lora"](vit(), rank=2)), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(name for name in tensors if "lora_A" in name)
    if change == "extra":
        tensors["base_model.model.blocks.0.attn.qkv.lora_magnitude_vector.weight"] = torch.ones(192)
    else:
        value = tensors.pop(first)
        if change == "name":
            tensors[first.replace("blocks.0", "blocks.9")] = value
    save_file(tensors, file)
    with pytest.raises(ExchangeError, match=r"lacks one of its two factors|nothing here is called|is nothing here"):
        from_peft(tmp_path, vit())


@pytest.mark.parametrize("kind", ["loha", "lokr", "lokr low"])
@torch.no_grad()
def test_loha_and_lokr_of_peft_are_read_as_dense_changes(kind, tmp_path):
    options = {"r": 3, "alpha": 5, "target_modules": r"blocks\..*(qkv|fc1)"}
    config = peft.LoHaConfig(**options) if kind == "loha" else peft.LoKrConfig(**options, decompose_both=kind == "lokr low")
    theirs = peft.get_peft_model(vit(), config).double().eval()
    move_all(theirs, "hada_" if kind == "loha" else "lokr_")
    theirs.save_pretrained(tmp_path)
    ours, x = from_peft(tmp_path, vit()), images()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(fuse(ours)(x), theirs.merge_and_unload()(x), rtol=0, atol=1e-6)


# LyCORIS


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.conv, self.last = nn.Linear(6, 12), nn.Conv2d(3, 4, 2), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.conv(torch.tanh(self.first(x)).view(len(x), 3, 2, 2)).flatten(1))


@pytest.mark.parametrize("algorithm", ["glora", "lora", "loha", "lokr", "full"])
@torch.no_grad()
def test_lycoris_files_are_read_exactly(algorithm, tmp_path):
    model, x = Net(), torch.randn(5, 6)
    LycorisNetwork.apply_preset({"target_module": ["Net"]})
    trained = copy.deepcopy(model)
    network = create_lycoris(trained, 1.0, linear_dim=2, linear_alpha=3, conv_dim=2, conv_alpha=3, algo=algorithm)
    network.apply_to()
    for parameter in network.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_weights(tmp_path / "theirs.safetensors", torch.float32, {})
    ours = from_lycoris(tmp_path / "theirs.safetensors", model)
    assert (trained(x) - model(x)).abs().max() > 1e-2
    torch.testing.assert_close(ours(x), trained(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fuse(ours)(x), trained(x), rtol=1e-5, atol=1e-5)


def test_a_lycoris_file_of_another_model_or_kind_is_listed(tmp_path):
    save_file({"lycoris_nothing.a1.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ExchangeError, match="lycoris_nothing is no linear layer or convolution of this model"):
        from_lycoris(tmp_path / "a.safetensors", Net())
    save_file({"lycoris_first.oft_blocks": torch.zeros(2, 2)}, tmp_path / "b.safetensors")
    with pytest.raises(ExchangeError, match="this kind is not read here"):
        from_lycoris(tmp_path / "b.safetensors", Net())
