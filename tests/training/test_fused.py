"""A function that is compiled gives what it gives as it stands: values, gradients, and what is changed in place."""

import warnings

import pytest
import torch
import torch._dynamo
from torch._inductor.exc import TritonMissing

from glora_lib.training import fused as fused_module
from glora_lib.training.flat_adamw import FlatAdamW, _move
from glora_lib.training.fused import fused
from glora_lib.training.joined import _fused, _summed

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: elsewhere nothing is compiled")


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dropped", [False, True])
def test_the_sum_of_a_block_and_its_norm(dropped, dtype):
    """For batches of two sizes, one after another; x of the first block needs no gradient."""
    generator = torch.Generator().manual_seed(0)
    for images, needed in ((4, False), (6, True)):
        numbers = torch.randn(2, images, 5, 64, generator=generator).to("cuda")
        scale, weight, bias = torch.randn(3, 64, generator=generator).to("cuda")
        mask = torch.randint(2, (images, 1, 1), generator=generator).float().to("cuda") if dropped else None
        found = []
        for function in (_fused, _summed):
            x, y = numbers[0].clone().requires_grad_(needed), numbers[1].to(dtype).requires_grad_()
            total, normed = function(x, y, scale, mask, weight, bias, 1e-6, dtype)
            assert normed.dtype == dtype
            (total.square().sum() + normed.float().pow(3).sum()).backward()
            found.append([total.detach(), normed.detach().float(), y.grad.float(), *([x.grad] if needed else [])])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, **({"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}))


@on_a_gpu
def test_a_step_of_the_optimizer():
    """Against the function as it stands, tensor by tensor moved and left alone."""
    generator = torch.Generator().manual_seed(0)
    sizes, rates = (3, 5), torch.tensor([[1e-2, 1e-3], [3e-2, 2e-3]], dtype=torch.float64)
    start, gradient = torch.randn(2, 2, 8, generator=generator).to("cuda")
    sampled = torch.tensor([[True, False], [True, True]], device="cuda")
    found = []
    for function in (_move, _move.__wrapped__):
        adamw = FlatAdamW(torch.nn.Parameter(start.clone()), sizes, 1e-2, update_unsampled=False)
        root, rate, kept = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(1)).to("cuda") + 0.5
        function(adamw.tensors.detach(), adamw.mean, adamw.square, gradient, sampled, root, rate, kept, adamw.place)
        adamw.step(gradient, rates.to("cuda"), sampled)
        found.append(adamw)
    for name in ("tensors", "mean", "square"):
        torch.testing.assert_close(*(getattr(adamw, name).detach() for adamw in found))
    assert torch.equal(found[0].tensors[0, 3:], start[0, 3:])


def without_compiler() -> RuntimeError:
    return torch._dynamo.exc.BackendCompilerFailed(without_compiler, RuntimeError("No working C++ compiler found"), None)


def without_triton() -> RuntimeError:
    return TritonMissing(None)


@pytest.mark.parametrize(
    ("error", "said"), [(without_compiler, "No working C"), (without_triton, "Cannot find a working triton")]
)
def test_where_nothing_can_be_compiled_that_is_said_once_and_the_functions_run_as_they_stand(monkeypatch, error, said):
    def failing(function):
        def compiled(*arguments):
            tried.append(function)
            raise error()

        return compiled

    tried: list = []
    monkeypatch.setattr(fused_module, "suits", lambda x: True)
    monkeypatch.setattr(fused_module, "_failed", False)
    monkeypatch.setattr(torch, "compile", failing)
    add, x = fused(lambda x, y: x.add_(y)), torch.zeros(2, 3)
    with pytest.warns(UserWarning, match=rf"torch.compile does not work here \(.*{said}"):
        add(x, torch.ones(2, 3))
    with warnings.catch_warnings(action="error"):
        add(x, torch.ones(2, 3))
        fused(torch.square)(x)
    assert torch.equal(x, torch.full((2, 3), 2.0))
    assert len(tried) == 1


def test_what_is_fused_is_called_as_it_stands_on_a_processor():
    seen = []
    fused(seen.append)(torch.zeros(1))
    assert len(seen) == 1
