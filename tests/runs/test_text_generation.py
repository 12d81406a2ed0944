"""Texts: data as they are read, labels, scores of known sentences, and what a run leaves."""

import shutil
from dataclasses import replace

import pytest
import torch

from glora_lib.backbones.language import load_language_model
from glora_lib.data import DataError
from glora_lib.data.e2e import attributes, load_e2e, prompt, unavailable_e2e
from glora_lib.runs.record import Record
from glora_lib.runs.text_generation import SETTINGS, Answers, answers, batch, encoded, execute, mean_loss, run, runs
from glora_lib.runs.transfer_profile import TEXTS
from glora_lib.superlora import PRESETS, queries_and_values
from glora_lib.superlora.counts import parameters
from glora_lib.superlora.model import shapes_of
from glora_lib.training.text_scores import METRICS, text_scores, words

SMOKE = TEXTS["smoke"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a small E2E set."""
    place = tmp_path / "e2e-nlg"
    place.mkdir()
    pair = '"name[Zizzi], customer rating[5 out of 5], area[city centre]","Zizzi, in the centre, is ""great""."\n'
    for file in ("trainset.csv", "devset.csv"):
        (place / file).write_text("mr,ref\n" + pair)
    (place / "testset_w_refs.csv").write_text(
        "mr,ref\n" + pair + '"name[Zizzi], customer rating[5 out of 5], area[city centre]",Second.\n'
    )
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    return place


def test_the_challenge_is_read_and_references_of_one_meaning_are_grouped(folder):
    data = load_e2e()
    assert data.train == (("name[Zizzi], customer rating[5 out of 5], area[city centre]", 'Zizzi, in the centre, is "great".'),)
    ((mr, refs),) = data.test
    assert refs == ('Zizzi, in the centre, is "great".', "Second.")
    assert prompt(mr) == "name : Zizzi | customer rating : 5 out of 5 | area : city centre ||"
    assert attributes("name[Café, Bar], near[]") == [("name", "Café, Bar"), ("near", "")]
    assert unavailable_e2e() == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mr,ref\nname Zizzi,Text\n", "'name Zizzi' is no meaning representation, such as 'name"),
        ("mr,ref\n,Text\n", "devset.csv, line 2: expected columns mr and ref"),
        ("a,b\n1,2\n", "devset.csv, line 2: expected columns mr and ref"),
        ("mr,ref\n", "devset.csv holds no pair"),
    ],
)
def test_a_malformed_file_is_one_clear_error(folder, text, message):
    (folder / "devset.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_e2e()


def test_a_missing_file_says_where_it_comes_from(folder):
    (folder / "devset.csv").unlink()
    assert "lacks devset.csv; data/README.md says where they come from" in unavailable_e2e()
    with pytest.raises(DataError, match="lacks devset.csv"):
        load_e2e()
    with pytest.raises(DataError, match="unknown text data 'e3e'; valid: e2e, tiny"):
        load_e2e("e3e")


def test_only_the_reference_and_the_end_are_labelled():
    _, tokenizer = load_language_model("random")
    tokens, labels = encoded("name[A]", "Yes.", tokenizer)
    asked = len(tokenizer("name : A ||")["input_ids"])
    assert labels[:asked] == [-100] * asked
    assert tokenizer.decode(tokens) == "name : A || Yes.<end>"
    assert tokens[asked:] == labels[asked:]
    rows, mask, targets = batch([(tokens, labels), (tokens[:4], labels[:4])], 0, torch.device("cpu"))
    assert mask.sum(1).tolist() == [len(tokens), 4]
    assert (targets[1, 4:] == -100).all()
    assert rows.shape == mask.shape == targets.shape


@torch.no_grad()
def test_the_loss_is_the_model_s_own_and_padding_does_not_count():
    causal, tokenizer = load_language_model("random")
    pairs = [encoded("name[A]", "Yes.", tokenizer), encoded("name[Longer]", "No, never.", tokenizer)]
    net = Answers(causal)
    losses = [float(causal(input_ids=torch.tensor([t]), labels=torch.tensor([y])).loss) for t, y in pairs]
    counts = [sum(label != -100 for label in labels) for _, labels in pairs]
    mean = sum(a * b for a, b in zip(losses, counts, strict=True)) / sum(counts)
    assert float(net(*batch(pairs, 0, torch.device("cpu")))) == pytest.approx(mean, rel=1e-4)
    assert mean_loss(net, pairs, SMOKE) == pytest.approx(mean, rel=1e-4)


def test_answers_do_not_depend_on_their_neighbours_and_more_beams_are_no_worse():
    causal, tokenizer = load_language_model("random")
    mrs = [mr for mr, _ in load_e2e("tiny").test]
    recipe = replace(SMOKE, new_tokens=6)
    together = answers(causal, tokenizer, mrs, 1, recipe)
    assert together == [answers(causal, tokenizer, [mr], 1, recipe)[0] for mr in mrs]
    assert len(answers(causal, tokenizer, mrs[:2], 3, recipe)) == 2


def test_scores_of_known_sentences():
    refs = [["the blue spice is a cheap coffee shop in the city centre", "in the city centre blue spice is cheap"],
            ["zizzi is a pub near the river in the north of the city"]]  # fmt: skip
    perfect = text_scores([r[0] for r in refs], refs)
    assert set(perfect) == set(METRICS) - (set() if shutil.which("java") else {"meteor"})
    assert perfect["bleu"] == pytest.approx(100)
    assert perfect["rouge_l"] == pytest.approx(100)
    assert perfect.get("meteor", 100) == pytest.approx(100)

    def score(*texts: str) -> dict:
        return text_scores(texts, refs, meteor=False)

    assert score(*(r[0].upper() for r in refs))["bleu"] == pytest.approx(100)
    worse = score("blue spice is a coffee shop", "zizzi is a river in the north of the city")
    assert all(worse[name] < perfect[name] for name in worse)
    assert score("x", "y")["rouge_l"] == score("x", "y")["nist"] == 0
    assert words("It's £20, not cheap!") == ["it's", "£", "20", ",", "not", "cheap", "!"]
    with pytest.raises(ValueError, match="1 texts need as many lists of references"):
        score("x")


def test_settings_fit_the_model_and_superlora_has_less_than_a_third_of_lora():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=49152, num_key_value_heads=3, **sizes))
    shapes = shapes_of(model)
    parts = queries_and_values(shapes)
    counts = {name: parameters(PRESETS[preset](**options), parts, shapes) for name, (preset, options) in SETTINGS.items()}
    assert counts["FT Wq Wv"] == 30 * (576 + 192) * 576
    assert counts["LoRA r=4"] == 30 * 4 * (2 * 576 + 576 + 192)
    assert 0.25 < counts["SuperLoRA r=9"] / counts["LoRA r=4"] < 0.30


def test_a_run_leaves_a_record_and_changes_queries_and_values_alone():
    found = execute(run("LoRA r=1", SMOKE, task="tiny"))
    assert isinstance(found, Record)
    assert (found.experiment, found.method, found.task) == ("text_generation", "LoRA_r=1", "tiny")
    assert {"held_out_loss", "bleu_beam_1", "cider_beam_10", "n_beam_10"} <= set(found.metrics)
    assert found.cost["trained"] == 2 * ((16 + 16) + (8 + 16))
    assert len(found.history["texts"]["1"]) == 2
    base = execute(runs(SMOKE, "tiny")[0])
    assert (base.method, base.cost["trained"]) == ("base", 0)


def test_runs_are_twelve_at_least():
    found = runs(TEXTS["cpu"])
    assert len({one.id for one in found}) == len(found) == 1 + len(SETTINGS) + 2 * 3 >= 12
