"""How far outputs move: the broadcast forms of B move them by the sum of the inputs."""

import pytest
import torch
from torch import nn

from glora_lib.measures.geometry import output_shift


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(64, 16), nn.Linear(16, 3)).requires_grad_(False)


def test_a_vector_moves_every_output_by_the_sum_of_its_inputs(model):
    x = torch.rand(5, 64)
    hidden = model[0](x)
    expected = (1e-3 * x.sum(-1).abs().mean() + 1e-3 * hidden.sum(-1).abs().mean()) / 2
    assert output_shift(model, x, "vector") == pytest.approx(float(expected), rel=1e-4)


def test_division_by_the_width_divides_the_shift(model):
    x = torch.rand(5, 64)
    alone = nn.Sequential(model[0])
    assert output_shift(alone, x, "scalar", scale_broadcast=True) == pytest.approx(
        output_shift(alone, x, "scalar") / 64, rel=1e-3
    )


def test_the_model_stays_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    output_shift(model, torch.rand(2, 64), "lora2")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
