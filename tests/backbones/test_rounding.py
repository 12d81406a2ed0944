"""The error of 4 bits a weight: as large as rounding makes it, and on linear layers alone."""

import pytest
import torch

from glora_lib.backbones import load_language_model, rounded_again


def test_the_error_is_that_of_sixteen_values_a_block():
    before, _ = load_language_model("random")
    after, _ = load_language_model("random")
    rounded_again(after)
    w0, w1 = (model.model.layers[0].mlp.up_proj.weight.detach().view(-1, 32) for model in (before, after))
    distance = (w0.amax(1) - w0.amin(1)) / 15
    error = (w1 - w0) / distance[:, None]
    assert error.abs().max() <= 0.5 + 1e-4
    assert error.std().item() == pytest.approx(12**-0.5, rel=0.1)  # of a uniform error, as rounding has
    nearest = (w0 - w0.amin(1, keepdim=True)) / distance[:, None]
    assert (nearest.round() - nearest).std().item() == pytest.approx(error.std().item(), rel=0.15)  # of rounding itself


def test_what_is_not_linear_stays():
    before, _ = load_language_model("random")
    after = rounded_again(load_language_model("random")[0])
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    assert torch.equal(before.model.norm.weight, after.model.norm.weight)
    again = rounded_again(load_language_model("random")[0])
    assert torch.equal(after.model.layers[0].self_attn.q_proj.weight, again.model.layers[0].self_attn.q_proj.weight)
