"""Runs on language models: what is trained and recorded, and that a fused folder gives the same text."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from glora_lib.backbones import load_language_model, save_language_model
from glora_lib.data import DataError
from glora_lib.glora.model import fuse
from glora_lib.glora.space import Choice, Space
from glora_lib.methods import attention
from glora_lib.runs import language
from glora_lib.runs.language_profile import LANGUAGE
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.run import Run

SMOKE = LANGUAGE["smoke"]


@pytest.fixture(autouse=True)
def states(tmp_path, monkeypatch):
    from glora_lib.runs import run

    monkeypatch.setattr(run, "CACHE", tmp_path)


@pytest.fixture(scope="module")
def tiny():
    return load_language_model("random")


def move(net):
    """Choose a random subnet whose tensors are as after training."""
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    return net.use(Space(net.layer_names, (4,), net.kinds).sample(random.Random(1)))


def test_every_profile_of_images_has_one_of_language():
    assert LANGUAGE.keys() >= PROFILES.keys()
    assert LANGUAGE["paper"].learning_rate == 2e-5
    assert LANGUAGE["paper"].batch_size * LANGUAGE["paper"].accumulate == 32


def test_the_experiment_has_every_method_on_every_set_and_seed():
    runs = language.language_models(LANGUAGE["cpu"])
    assert len({run.id for run in runs}) == len(runs) == 1 + 3 * (5 + 3)
    assert {run.method for run in runs if run.task == "alpaca_2000"} == {"lora", "glora", "glora_weight"}


@pytest.mark.parametrize("method", ["base", "lora", "glora", "glora_oracle"])
def test_a_run_is_one_record(method):
    record = language.execute(Run("language_models", "tiny", method, SMOKE))
    assert record.metrics["average"] == record.metrics["sums"]
    assert record.metrics["n_sums"] == len(record.history["items"]["sums"]) == 6
    assert record.selected_on == {"glora": "val", "glora_oracle": "test (oracle)"}.get(method, "nothing")
    searched = method.startswith("glora")
    assert (record.config is not None) == searched
    assert record.metrics.get("evaluations", 0) == (6 if searched else 0)
    assert (record.cost["merged"] > 0) == searched
    assert record.settings["instructions_sha256"] != record.settings["questions_sha256"]


def test_the_two_variants_have_supernets_of_their_own():
    runs = [language.execute(Run("language_models", "tiny", method, SMOKE)) for method in ("glora", "glora_weight")]
    losses = [run.history["train"][-1]["loss"] for run in runs]
    assert losses[0] != losses[1]


def test_too_few_instructions_are_an_error():
    with pytest.raises(
        DataError, match="40 instructions have at most 400 tokens; they are too few for 4 that are held out and 100000"
    ):
        language.execute(Run("language_models", "tiny", "lora", replace(SMOKE, tokens=100_000)))
    with pytest.raises(DataError, match="texts of 5000 tokens are longer than the model's context of 4096; lower `length`"):
        language.execute(Run("language_models", "tiny", "lora", replace(SMOKE, length=5000)))
    with pytest.raises(ValueError, match="method 'adapter' is not known; valid: base, agreement, rounded, lora, glora"):
        language.execute(Run("language_models", "tiny", "adapter", SMOKE))


@pytest.mark.parametrize("gains", [True, False])
@torch.no_grad()
def test_a_fused_folder_is_loaded_by_transformers_and_gives_the_same_text(tiny, tmp_path, gains):
    model, tokenizer = load_language_model("random")
    net = move(attention.glora(model, rank=4, gain_bias=gains))
    plain = fuse(net).eval()
    tokens = tokenizer("One, two, three,", return_tensors="pt").input_ids
    torch.testing.assert_close(plain(tokens).logits, net(tokens).logits, rtol=1e-4, atol=1e-4)
    folder = save_language_model(plain, tokenizer, tmp_path / "fused")
    again, reader = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert torch.equal(again(tokens).logits, plain(tokens).logits)
    texts = [m.generate(tokens, max_new_tokens=20, do_sample=False, pad_token_id=2) for m in (net.model, plain, again)]
    assert torch.equal(texts[1], texts[2])
    assert reader.decode(texts[2][0]) == tokenizer.decode(texts[0][0])
    assert again.config.attention_bias == gains
    gained = sum(p.numel() for p in again.parameters()) - sum(p.numel() for p in tiny[0].parameters())
    assert gained == (2 * (16 + 8 + 8 + 16) if gains else 0)


@torch.no_grad()
def test_the_authors_fork_merges_another_model(tiny):
    """It updates the weight first and then computes the bias with the updated one (behaviour.md, A.6)."""
    net = attention.glora(load_language_model("random")[0], rank=4)
    move(net)
    layer = net.layer(net.layer_names[0]).use(Choice("lora4", "lora4", "lora4", "vector", "vector"))
    W, b = layer.effective()
    C = layer.Cd @ layer.Cu
    theirs = layer.E + (W @ C).squeeze(1)
    ours = layer.E + (layer.W0 @ C).squeeze(1)
    torch.testing.assert_close(b, ours)
    assert (theirs - ours).abs().max() > 1e-2


def test_a_recipe_is_judged_by_held_out_instructions_alone():
    run = next(run for run in language.recipes(SMOKE) if run.method == "glora")
    record = language.execute(run)
    assert record.id == "tiny--glora-0.01--smoke--s0"
    assert len(record.metrics["random_loss"]) == record.metrics["n_random"] == 3
    assert record.metrics["loss"] == pytest.approx(record.metrics["random_loss"][0])
    assert record.selected_on == "nothing"
    assert "average" not in record.metrics


def test_the_untrained_model_is_checked_three_times():
    published, agreement, rounded = [language.execute(run) for run in language.checks(SMOKE)]
    assert published.method == "published"
    assert published.metrics["n_sums"] == 20
    assert agreement.method == "agreement"
    assert agreement.history["harness"] == agreement.history["items"]
    assert rounded.metrics["loss"] != published.metrics["loss"]
    assert "average" not in rounded.metrics
