"""The layer: Eq. 10 in every choice and shape, exact no-op, entanglement, fusion, gradients."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fixtures.formula import SUPPORT, dense, random_layer
from torch import nn

from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.space import Choice, Space

FIXTURES = json.loads((Path(__file__).parents[1] / "fixtures" / "glora_fixtures.json").read_text())
SHAPE = pytest.mark.parametrize("shape", [(6, 5), (5, 5), (5, 1), (1, 5)], ids=["6x5", "square", "d1=1", "d2=1"])
BIAS = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
ALL_432, ALL_900 = Space(("layer",), (8,)).choices(), Space(("layer",), (8, 4)).choices()


@SHAPE
@BIAS
@torch.no_grad()
def test_layer_formula_and_fused_layer_agree_in_every_choice(shape, bias):
    layer = random_layer(*shape, bias)
    x = torch.randn(2, 3, shape[1], dtype=torch.float64)
    outputs = []
    for choice in ALL_900:  # the 432 are among them
        W, b = dense(layer, choice)
        fused = layer.use(choice).fuse()
        assert type(fused) is nn.Linear
        outputs.append(torch.stack([torch.einsum("...i,oi->...o", x, W) + b, layer(x), fused(x)]))
    expected, ours, plain = torch.stack(outputs, dim=1)
    for found in (ours, plain):
        agree = (found - expected).abs().flatten(1).le(1e-12).all(dim=1)
        assert agree.all(), [choice for choice, fine in zip(ALL_900, agree, strict=True) if not fine]


def test_choices_of_one_rank_are_among_those_of_two():
    assert (len(ALL_432), len(ALL_900)) == (432, 900)
    assert set(ALL_432) < set(ALL_900)


@BIAS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", FIXTURES["cases"], ids=lambda case: ",".join(case["config"].values()))
def test_fixtures_are_met_exactly(case, dtype, bias):
    """Numbers of another program, with few bits, so that nothing is rounded (behaviour.md, H)."""

    def tensor(values):
        return torch.tensor(values, dtype=dtype)

    layer = GLoRALinear(nn.Linear(3, 2, bias=bias, dtype=dtype), rank=2)
    with torch.no_grad():
        layer.W0.copy_(tensor(FIXTURES["W0"]))
        if bias:
            layer.b0.copy_(tensor(FIXTURES["b0"]))
        for name, values in FIXTURES["params"].items():
            getattr(layer, name).copy_(tensor(values))
    theirs = {"constant": "scalar", "LoRA_1": "lora1", "LoRA_2": "lora2"}
    layer.use(Choice(**{name: theirs.get(form, form) for name, form in case["config"].items()}))
    W, b = layer.effective()
    expected = tensor(case["b"] if bias else case["b_when_no_base_bias"])
    assert torch.equal(W, tensor(case["W"]))
    assert torch.equal(torch.zeros(2, dtype=dtype) if b is None else b, expected)
    x = tensor(FIXTURES["x"])
    for y in (layer(x), layer.fuse()(x)):
        assert torch.equal(y, tensor(case["y"]) if bias else x @ tensor(case["W"]).T + expected)


@BIAS
@SHAPE
def test_every_choice_changes_nothing_at_the_start(shape, bias):
    linear = nn.Linear(shape[1], shape[0], bias=bias)
    layer, x = GLoRALinear(linear), torch.randn(7, shape[1])
    expected = F.linear(x, linear.weight, linear.bias)
    assert all(getattr(layer, up).abs().min() > 0 for up in ("Au", "Bu", "Cu"))  # only then do the others learn
    for choice in ALL_900:
        layer.use(choice)
        W, b = layer.effective()
        assert torch.equal(W, linear.weight), choice
        assert torch.equal(torch.zeros(shape[0]) if b is None else b, linear.bias if bias else torch.zeros(shape[0])), choice
        with torch.no_grad():
            assert torch.equal(layer(x), expected), choice
            assert torch.equal(layer.fuse()(x), expected), choice


def moved_by_changing(entry: tuple[int, int], tensor: str, form: str) -> bool:
    """Whether the layer's function changes with that entry of Xd, when the tensor has that form."""
    layer = random_layer(4, 3, rank=4).use(Choice(**{tensor: form}))
    W, b = (part.clone() for part in layer.effective())
    with torch.no_grad():
        getattr(layer, f"{tensor}d")[entry] += 1
    changed_W, changed_b = layer.effective()
    return not (torch.equal(W, changed_W) and torch.equal(b, changed_b))


@pytest.mark.parametrize("tensor", ["A", "B", "C"])
def test_the_forms_are_entangled(tensor):
    """The scalar is the first entry of the vector, which is the first column of LoRA, of every rank (behaviour.md, H.3)."""
    all_forms = ["lora4", "lora2", "lora1", "vector", "scalar", "none"]
    all_forms = [form for form in all_forms if (tensor, form) != ("C", "scalar")]
    moves = {
        entry: {form for form in all_forms if moved_by_changing(entry, tensor, form)}
        for entry in [(0, 0), (1, 0), (1, 1), (0, 3)]
    }
    assert moves[0, 0] == set(all_forms) - {"none"}
    assert moves[1, 0] == {"lora4", "lora2", "lora1", "vector"}
    assert moves[1, 1] == {"lora4", "lora2"}
    assert moves[0, 3] == {"lora4"}


@pytest.mark.parametrize("tensor", ["D", "E"])
def test_the_scalars_of_the_bias_are_the_vectors_first_entries(tensor):
    layer = random_layer(4, 3)
    first = layer.use(Choice(**{tensor: "vector"})).effective()[1][0]
    assert first == layer.use(Choice(**{tensor: "scalar"})).effective()[1][0]


def test_c_is_multiplied_with_the_pretrained_weight_and_not_with_the_merged_one():
    """The authors' merge for language models updates the weight first and then takes W_uni @ C (behaviour.md, A.6 and H.4)."""
    layer = random_layer(4, 3, rank=2).use(Choice("lora2", "lora2", "lora2", "none", "none"))
    W, b = layer.effective()
    C = layer.Cd @ layer.Cu
    torch.testing.assert_close(b, layer.b0 + (layer.W0 @ C)[:, 0], rtol=0, atol=1e-12)
    assert (layer.fuse().bias - (layer.b0 + (W @ C)[:, 0])).abs().min() > 1e-3


def test_a_as_a_vector_scales_rows_also_of_a_square_weight():
    layer = random_layer(4, 4).use(Choice(A="vector"))
    W, _ = layer.effective()
    torch.testing.assert_close(W, torch.diag(1 + layer.Ad[:, 0]) @ layer.W0, rtol=0, atol=1e-12)
    assert (W - layer.W0 @ torch.diag(1 + layer.Ad[:, 0])).abs().max() > 1e-2  # columns would be this


@BIAS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype, bias):
    layer = random_layer(3, 2, bias, dtype=dtype, scale_broadcast=True)
    assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
    for choice in ALL_900[::7]:
        W, b = layer.use(choice).effective()
        fused = layer.fuse()
        assert {part.dtype for part in (W, b, fused.weight, fused.bias) if part is not None} == {dtype}


@BIAS
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
def test_only_what_was_chosen_gets_a_gradient(fast, bias):
    layer = random_layer(3, 4, bias)
    layer.fast = fast
    x = torch.randn(5, 4, dtype=torch.float64)
    for choice in ALL_900[::11]:
        layer.zero_grad(set_to_none=True)
        y = layer.use(choice)(x)
        used = set()
        for tensor in "ABC":
            form = getattr(choice, tensor)
            used |= {f"{tensor}d"} if form != "none" else set()
            used |= {f"{tensor}u"} if form.startswith("lora") else set()
        used |= {tensor for tensor in "DE" if getattr(choice, tensor) != "none" and (bias or tensor == "E")}
        if used:
            y.square().sum().backward()
        got = {name for name in SUPPORT if getattr(layer, name).grad is not None}
        assert got == used, choice
        assert layer.W0.grad is None
        assert layer.b0 is None or layer.b0.grad is None


@pytest.mark.parametrize("choice", ALL_432[::5], ids=lambda choice: f"{choice.A}-{choice.B}-{choice.C}-{choice.D}-{choice.E}")
def test_a_layer_without_bias_gains_one_only_from_c_or_e(choice):
    fused = random_layer(3, 4, bias=False).use(choice).fuse()
    assert (fused.bias is not None) == (choice.C != "none" or choice.E != "none")
    assert random_layer(3, 4).use(choice).fuse().bias is not None


@SHAPE
def test_scaling_divides_exactly_the_broadcast_forms_of_b_by_the_width(shape):
    plain, scaled = random_layer(*shape), random_layer(*shape, scale_broadcast=True)
    for choice in ALL_432:
        (W, b), (W_scaled, b_scaled) = plain.use(choice).effective(), scaled.use(choice).effective()
        assert torch.equal(b, b_scaled)
        if choice.B not in ("vector", "scalar"):
            assert torch.equal(W, W_scaled), choice
            continue
        B = plain.Bd[:, :1] if choice.B == "vector" else plain.Bd[0, 0]
        torch.testing.assert_close(W - W_scaled, (B - B / shape[1]).expand(shape), rtol=0, atol=1e-13)
        W_dense, b_dense = dense(scaled, choice)
        torch.testing.assert_close(W_scaled, W_dense, rtol=0, atol=1e-12)
        torch.testing.assert_close(b_scaled, b_dense, rtol=0, atol=1e-12)


@pytest.mark.parametrize("choice", [Choice(A="lora16"), Choice(B="lora9"), Choice(C="lora16")])
def test_a_rank_above_the_stored_one_is_an_error_and_the_choice_stays(choice):
    layer = random_layer(3, 2, rank=8).use(Choice(A="lora8"))
    with pytest.raises(ValueError, match=r"'lora\d+' for [ABC]; valid ranks of this layer: 1 to 8"):
        layer.use(choice)
    assert layer.choice == Choice(A="lora8")


def test_a_rank_below_1_is_an_error():
    with pytest.raises(ValueError, match="rank must be at least 1"):
        GLoRALinear(nn.Linear(2, 2), rank=0)


def test_shapes_of_the_storage_and_shared_frozen_weights():
    linear = nn.Linear(5, 3)
    layer = GLoRALinear(linear, rank=4)
    shapes = {name: tuple(getattr(layer, name).shape) for name in SUPPORT}
    assert shapes == {"Ad": (3, 4), "Au": (4, 5), "Bd": (3, 4), "Bu": (4, 5), "Cd": (5, 4), "Cu": (4, 1), "D": (3,), "E": (3,)}
    assert layer.W0 is linear.weight
    assert layer.b0 is linear.bias
    assert not layer.W0.requires_grad
    assert not layer.b0.requires_grad
    assert all(getattr(layer, name).requires_grad for name in SUPPORT)


def test_fusing_leaves_the_layer_as_it_is_and_shares_nothing_with_it():
    layer = random_layer(3, 2).use(Choice("lora8", "vector", "vector", "scalar", "vector"))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    fused = layer.fuse()
    with torch.no_grad():
        fused.weight.zero_(), fused.bias.zero_()
    unused = layer.use(Choice()).fuse()
    with torch.no_grad():
        unused.weight.zero_(), unused.bias.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_weight_and_bias_read_as_attributes_are_the_effective_ones():
    layer = random_layer(3, 2).use(Choice("vector", "scalar", "vector", "vector", "scalar"))
    W, b = layer.effective()
    assert torch.equal(layer.weight, W)
    assert torch.equal(layer.bias, b)


@pytest.mark.parametrize("choice", ALL_432[::13], ids=str)
def test_what_is_stored_for_a_choice_is_what_it_counts_and_what_it_needs(choice):
    layer = random_layer(3, 4).use(choice)
    stored = {name: tensor.detach().clone() for name, tensor in layer.stored().items()}
    space = Space(("layer",))
    assert sum(tensor.numel() for tensor in stored.values()) == space.parameters({"layer": choice}, {"layer": (3, 4)})
    W, b = layer.effective()
    with torch.no_grad():
        for name in SUPPORT:
            getattr(layer, name).zero_()
        for name, tensor in stored.items():
            getattr(layer, name)[tuple(slice(length) for length in tensor.shape)] = tensor
    assert torch.equal(layer.effective()[0], W)
    assert torch.equal(layer.effective()[1], b)
