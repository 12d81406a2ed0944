"""The fast backward pass is the plain formula's, in values and in gradients."""

import pytest
import torch
from fixtures.formula import SUPPORT, random_layer

from glora_lib.glora.fast_linear import scaled_rows_linear
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.space import Choice, Space

ALL_900 = Space(("layer",), (4, 2)).choices()


def gradients(layer: GLoRALinear, x: torch.Tensor, fast: bool) -> dict[str, torch.Tensor | None]:
    """Return y and the gradients of a fixed function of it, by the name of what they belong to."""
    layer.fast = fast
    layer.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_(True)
    y = layer(x)
    (y.square() + y).sum().backward()
    return {"y": y.detach(), "x": x.grad} | {name: getattr(layer, name).grad for name in SUPPORT}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("scale", [True, False], ids=["scaled", "unscaled"])
@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (4, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("rows", [6, 2], ids=["more rows than inputs", "few rows"])
def test_values_and_gradients_are_the_plain_formula_s_in_every_choice(rows, shape, scale, bias):
    layer = random_layer(*shape, bias, rank=4, scale_broadcast=scale)
    x = torch.randn(2, rows // 2, shape[1], dtype=torch.float64)
    for choice in ALL_900[:: 1 if shape == (4, 3) and not scale else 7]:
        layer.use(choice)
        plain, fast = gradients(layer, x, fast=False), gradients(layer, x, fast=True)
        for name, expected in plain.items():
            assert (fast[name] is None) == (expected is None), (choice, name)
            if expected is not None:
                assert fast[name].shape == expected.shape, (choice, name)
                assert torch.allclose(fast[name], expected, rtol=1e-10, atol=1e-10), (choice, name)


SHAPES = {"gain": (4,), "down": (4, 2), "up": (2, 3), "bias": (4,)}
GAIN = pytest.mark.parametrize("gain", [4, 1, 0], ids=["gains", "one gain", "no gain"])
LEADING = pytest.mark.parametrize("leading", [(2, 5), (2,)], ids=["more rows than inputs", "few rows"])


def random_parts(leading: tuple[int, ...], gain: int, low_rank: bool = True, bias: bool = True) -> dict:
    """Return all arguments but W0, random or None."""
    shapes = {"x": (*leading, 3)} | SHAPES | {"gain": (gain,)}
    given = {"x": True, "gain": gain > 0, "down": low_rank, "up": low_rank, "bias": bias}
    return {name: torch.randn(shapes[name], dtype=torch.float64) if there else None for name, there in given.items()}


@LEADING
@GAIN
@pytest.mark.parametrize("low_rank", [True, False], ids=["low rank", "no low rank"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_gradients_are_the_finite_differences(leading, gain, low_rank, bias):
    parts, W0 = random_parts(leading, gain, low_rank, bias), torch.randn(4, 3, dtype=torch.float64)
    given = [name for name, part in parts.items() if part is not None]
    leaves = tuple(parts[name].requires_grad_(True) for name in given)
    assert torch.autograd.gradcheck(
        lambda *values: scaled_rows_linear(W0=W0, **(parts | dict(zip(given, values, strict=True)))), leaves
    )


@LEADING
@GAIN
def test_only_the_gradients_that_are_needed_are_computed_and_are_the_same(leading, gain):
    parts = random_parts(leading, gain)
    given = [name for name, part in parts.items() if part is not None]
    W0 = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def gradients_of(*needed: str) -> dict[str, torch.Tensor]:
        leaves = {name: None if part is None else part.clone().requires_grad_(name in needed) for name, part in parts.items()}
        scaled_rows_linear(W0=W0, **leaves).square().sum().backward()
        return {name: leaves[name].grad for name in given if leaves[name].grad is not None}

    whole = gradients_of(*given)
    for needed in given:
        alone = gradients_of(needed)
        assert list(alone) == [needed]
        torch.testing.assert_close(alone[needed], whole[needed])
    assert W0.grad is None


@pytest.mark.parametrize("A", ["none", "scalar", "vector", "lora8"])
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (0,)], ids=str)
def test_any_leading_dimensions_also_none_and_empty_ones(leading, A):
    layer = random_layer(4, 3).use(Choice(A, "lora8", "none", "none", "vector"))
    x = torch.randn(*leading, 3, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
    y = layer(x)
    torch.testing.assert_close(y, expected)
    assert y.shape == (*leading, 4)
    y.sum().backward()


@pytest.mark.parametrize("A", ["vector", "lora8"])
def test_an_input_in_another_memory_layout(A):
    layer, x = random_layer(4, 3).use(Choice(A, "lora8")), torch.randn(3, 5, dtype=torch.float64).T
    plain, fast = gradients(layer, x, fast=False), gradients(layer, x, fast=True)
    torch.testing.assert_close(fast["x"], plain["x"])
    torch.testing.assert_close(fast["Bu"], plain["Bu"])


@pytest.mark.parametrize("A", ["none", "scalar", "vector", "lora8"])
def test_the_lowest_layer_whose_input_needs_no_gradient(A):
    layer, x, got = random_layer(4, 3).use(Choice(A, "lora8", "vector")), torch.randn(5, 3, dtype=torch.float64), []
    for layer.fast in (True, False):
        layer.zero_grad()
        layer(x).square().sum().backward()
        got.append([getattr(layer, name).grad for name in SUPPORT])
    for fast, plain in zip(*got, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)


def test_a_layer_below_learns_through_the_fast_one():
    """Several layers deep, the gradient that is handed down is the plain one's, too."""
    below, above = random_layer(4, 3, seed=1), random_layer(2, 4, seed=2)
    below.use(Choice("scalar", "lora8", "vector", "vector", "vector"))
    above.use(Choice("vector", "scalar", "lora8", "none", "none"))
    x, got = torch.randn(6, 3, dtype=torch.float64), []
    for fast in (True, False):
        below.fast = above.fast = fast
        below.zero_grad(), above.zero_grad()
        above(torch.tanh(below(x))).square().sum().backward()
        got.append([getattr(layer, name).grad for layer in (below, above) for name in SUPPORT])
    for fast, plain in zip(*got, strict=True):
        assert (fast is None) == (plain is None)
        if plain is not None:
            torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("A", ["none", "scalar", "vector", "lora4"])
@pytest.mark.parametrize("B", ["none", "vector", "lora8"])
def test_autocast_gives_what_the_plain_formula_gives_to_bfloat16_s_rounding(A, B):
    layer = random_layer(24, 16, dtype=torch.float32).use(Choice(A, B, "lora8", "vector", "vector"))
    x, autocast = torch.randn(40, 16), torch.autocast("cpu", torch.bfloat16)
    exact = gradients(layer, x, fast=False)
    with autocast:
        plain, fast = gradients(layer, x, fast=False), gradients(layer, x, fast=True)
    assert fast["y"].dtype == torch.bfloat16
    for name, expected in exact.items():
        assert (fast[name] is None) == (expected is None), name
        if expected is not None:
            error, allowed = ((values[name].float() - expected).norm() / expected.norm() for values in (fast, plain))
            assert error <= max(2 * allowed, 2**-7), name  # 2**-8 is half a step between neighbours of 1
            assert name == "y" or fast[name].dtype == torch.float32
