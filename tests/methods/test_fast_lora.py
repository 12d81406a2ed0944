"""LoRA's hand-written backward pass against the plain formula, and dropout's cheap random numbers."""

import copy

import pytest
import torch
from torch import nn

from glora_lib.methods.lora import LoRALinear
from glora_lib.training.dropout import Dropout

pytestmark = pytest.mark.usefixtures("one_thread")


def layers(bias: bool, apart: bool, dropout: float, scale: float = 0.7) -> tuple[LoRALinear, LoRALinear]:
    """The same layer twice, with random factors: fast, and the plain formula."""
    fast = LoRALinear(nn.Linear(5, 6, bias=bias).requires_grad_(False), 2, scale, dropout, apart).double().train()
    with torch.no_grad():
        fast.up.normal_()
    plain = copy.deepcopy(fast)
    plain.fast = False
    return fast, plain


@pytest.mark.parametrize("leading", [(7,), (3, 4), (1,)], ids=["rows", "batch", "one"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "q and v"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_values_and_gradients_are_the_plain_formula_s(bias, apart, dropout, leading):
    fast, plain = layers(bias, apart, dropout)
    inputs = [torch.randn(*leading, 5, dtype=torch.float64).requires_grad_() for _ in range(1)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    outputs = []
    for layer, x in zip((fast, plain), inputs, strict=True):
        torch.manual_seed(3)  # of dropout
        y = layer(x)
        (y.square() + y).sum().backward()
        outputs.append(y.detach())
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-12, atol=1e-12)
    for name in ("up", "down"):
        torch.testing.assert_close(getattr(fast, name).grad, getattr(plain, name).grad, rtol=1e-12, atol=1e-12)


def test_the_first_layer_of_a_model_needs_no_gradient_of_its_input():
    fast, plain = layers(True, False, 0.0)
    x = torch.randn(4, 5, dtype=torch.float64)
    for layer in (fast, plain):
        layer(x).square().sum().backward()
    torch.testing.assert_close(fast.down.grad, plain.down.grad)


def test_in_evaluation_nothing_is_dropped():
    fast, _ = layers(True, False, 0.5)
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(fast.eval()(x).detach(), fast.fuse()(x).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_a_mask_drops_the_share_and_keeps_the_mean(p, dtype):
    mask = Dropout(p).mask(torch.empty(400, 501, dtype=dtype))
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p), dtype=dtype).item()}
    dropped = (mask == 0).double()
    assert dropped.mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / mask.numel()) ** 0.5)
    neighbours = (dropped[:, 1:] - p) * (dropped[:, :-1] - p)
    assert abs(neighbours.mean().item()) < 4 * p * (1 - p) / neighbours.numel() ** 0.5  # four of them share a number


def test_masks_come_from_the_generator_and_none_in_evaluation():
    dropout, x = Dropout(0.5), torch.ones(50)
    first, second = (dropout.mask(x, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, dropout.mask(x, torch.Generator().manual_seed(2)))
    assert torch.equal(dropout.eval()(x), x)
    assert not torch.equal(dropout.train()(x), x)


def test_a_layer_of_short_weights_answers_without_gradients_too():
    """Its factors stay long, in which small steps are not lost."""
    layer = LoRALinear(torch.nn.Linear(6, 4).bfloat16(), rank=2).eval()
    layer.down.data, layer.up.data = layer.down.data.float(), torch.randn(1, 4, 2)
    x = torch.randn(5, 6).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.fuse()(x), rtol=0.05, atol=0.05)
