"""Training on labelled tokens: the loss, what accumulation adds up to, an interruption, and the attention alone."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fixtures.llamas import tiny
from torch.utils.data import TensorDataset

from glora_lib.glora.model import fuse
from glora_lib.glora.space import Choice, Space
from glora_lib.methods import attention
from glora_lib.training.batch import TrainingError, autocast
from glora_lib.training.language import finetune, loss, mean_loss

RECIPE = SimpleNamespace(
    epochs=3, batch_size=2, accumulate=3, learning_rate=1e-2, head_learning_rate=1e-2, weight_decay=0.0, warmup_epochs=0,
    first_learning_rate=0.0, final_learning_rate=0.0, update_unsampled=False, dtype="float32",
)  # fmt: skip


def texts(number: int = 13, length: int = 8) -> TensorDataset:
    """Counting modulo 10; the first three tokens are the prompt."""
    tokens = (torch.arange(number)[:, None] + torch.arange(length)) % 10
    labels = tokens.clone()
    labels[:, :3] = -100
    return TensorDataset(tokens, labels)


def lora():
    return attention.lora(tiny(), rank=2)


def supernet():
    net = attention.glora(tiny(), rank=2, gain_bias=False)
    return net, Space(net.layer_names, (2,), net.kinds)


def test_loss_is_the_cross_entropy_of_the_labelled_tokens_and_padding_is_nothing():
    model, (tokens, labels) = tiny(), texts()[:4]
    logits = model(tokens).logits
    expected = F.cross_entropy(logits[:, 2:-1].flatten(0, 1), tokens[:, 3:].flatten(), reduction="none")
    torch.testing.assert_close(loss(model, tokens, labels), expected)
    padded = F.pad(tokens, (0, 5), value=2), F.pad(labels, (0, 5), value=-100)
    torch.testing.assert_close(loss(model, *padded), expected)
    assert mean_loss(model, texts(), batch_size=5) == pytest.approx(loss(model, *texts()[:]).mean().item(), abs=1e-6)


def test_it_learns_and_nothing_but_the_attention_is_trained():
    net, before = lora(), mean_loss(tiny(), texts())
    trained = {name.split(".")[-2] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == set(attention.ATTENTION)
    history = finetune(net, texts(), SimpleNamespace(**vars(RECIPE) | {"epochs": 20}), seed=1)
    assert mean_loss(net, texts()) < before - 0.5
    assert len(history) == 20
    assert history[0]["tokens"] == 13 * 8


def test_accumulated_gradients_are_those_of_the_whole_batch():
    results = []
    for batch, accumulate in ((6, 1), (2, 3)):
        net = lora()
        finetune(net, texts(12), SimpleNamespace(**vars(RECIPE) | {"batch_size": batch, "accumulate": accumulate}), seed=0)
        results.append(torch.cat([p.flatten() for p in net.parameters() if p.requires_grad]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_every_batch_draws_its_own_configuration():
    net, space = supernet()
    drawn = []
    finetune(net, texts(), RECIPE, sample=lambda rng: drawn.append(space.sample(rng)) or drawn[-1])
    assert len(drawn) == 3 * 7
    assert all(choice.C == choice.D == choice.E == "none" for config in drawn for choice in config.values())


def test_an_interruption_changes_nothing(tmp_path):
    whole, space = supernet()
    finetune(whole, texts(), RECIPE, sample=space.sample, seed=3)

    class Stop(Exception):
        pass

    left = iter(range(11))

    def sample(rng):
        if next(left, None) is None:
            raise Stop
        return space.sample(rng)

    path = tmp_path / "train.pt"
    with pytest.raises(Stop):
        finetune(supernet()[0], texts(), RECIPE, sample=sample, seed=3, checkpoint=path)
    again = supernet()[0]
    history = finetune(again, texts(), RECIPE, sample=space.sample, seed=3, checkpoint=path)
    assert len(history) == 3
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), again.parameters(), strict=True))
    with pytest.raises(TrainingError, match="for other data"):
        finetune(again, texts(13, 9), RECIPE, sample=space.sample, seed=3, checkpoint=path)


def test_a_loss_that_is_not_finite_is_named():
    net = lora()
    with torch.no_grad():
        net.model.layers[1].self_attn.o_proj.up.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan at epoch 0, step 0, learning rate 1.0e-02"):
        finetune(net, texts(), RECIPE)
    with pytest.raises(TrainingError, match="the mean loss is nan"):
        mean_loss(net, texts())


def test_a_model_without_such_attention_is_refused():
    with pytest.raises(ValueError, match="has no linear layer called q_proj, k_proj, v_proj, o_proj; it is no LLaMA"):
        attention.lora(torch.nn.Sequential(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("method", ["lora", "glora"])
def test_frozen_weights_of_low_precision_have_trained_parameters_of_full_precision(method):
    """As in the paper profile: bfloat16, autocast, checkpointed activations."""
    model = tiny().to(torch.bfloat16)
    model.activation_checkpointing_enable({"use_reentrant": False})
    net = getattr(attention, method)(model, rank=2)
    assert {p.dtype for p in net.parameters() if p.requires_grad} == {torch.float32}
    sample = Space(net.layer_names, (2,), net.kinds).sample if method == "glora" else None
    history = finetune(net, texts(), SimpleNamespace(**vars(RECIPE) | {"dtype": "bfloat16", "epochs": 8}), sample=sample)
    assert history[-1]["loss"] < history[0]["loss"]
    if method == "glora":
        net.use(Space(net.layer_names, (2,), net.kinds).uniform(Choice("lora2", "vector", "lora2", "none", "vector")))
    plain = fuse(net)
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    tokens = texts()[:4][0]
    with torch.no_grad(), autocast("bfloat16", tokens.device):
        torch.testing.assert_close(plain(tokens).logits, net.eval()(tokens).logits, rtol=0.05, atol=0.1)
