"""The harness' numbers: the same with our log-likelihoods as with its own model class, on the same questions."""

import numpy as np
import pytest
from fixtures.questions import write

from glora_lib.backbones import load_language_model
from glora_lib.data.questions import load_questions
from glora_lib.runs import harness
from glora_lib.runs.harness import Likelihoods, answered, of_the_harness

SIZES = {"arc": (3, 4, 13), "hellaswag": (2, 4, 13), "mmlu-2": (2, 2, 6), "truthfulqa": (0, 4, 12)}  # 50 questions


@pytest.fixture(scope="module")
def tiny():
    return load_language_model("random")


@pytest.fixture
def questions(tmp_path, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(write(tmp_path, number=30)))
    return load_questions(SIZES)


def test_fifty_questions_are_answered_as_by_the_harness_own_model(tiny, questions):
    model, tokenizer = tiny
    ours = answered(Likelihoods(model, tokenizer), questions)
    theirs = answered(of_the_harness(model, tokenizer), questions)
    assert {name: len(items) for name, items in ours.items()} == {"arc": 13, "hellaswag": 13, "mmlu": 12, "truthfulqa": 12}
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
    assert 0 < np.mean(ours["arc"] + ours["hellaswag"] + ours["mmlu"]) < 1  # there are right and wrong ones


def test_prompts_are_the_leaderboard_s(tiny, questions, monkeypatch):
    asked = []

    def listen(self, requests, **_):
        asked.extend(pair for pair, *_ in requests)
        return [(-1.0, False)] * len(requests)

    monkeypatch.setattr(Likelihoods, "_loglikelihood_tokens", listen)
    values = answered(Likelihoods(*tiny), questions)
    arc = [pair for pair in asked if pair[0].count("Question: ") == 4]
    assert len(arc) == 4 * 13
    assert all(context.endswith("?\nAnswer:") and answer.startswith(" ") for context, answer in arc)
    beginnings = {context.rsplit("\n\n", 1)[0] for context, _ in arc}
    assert len(beginnings) == 1  # the same three examples, with their answers
    assert "Question: What is" in beginnings.pop()
    mmlu = [context for context, _ in asked if context.startswith("The following are multiple choice questions (with answers)")]
    assert len(mmlu) == 4 * 12
    assert all(context.endswith("Answer:") and context.count("\nD. ") == 3 for context in mmlu)
    swag = [pair for pair in asked if "How to do" in pair[0]]
    assert len(swag) == 4 * 13
    assert not any("[" in text for pair in swag for text in pair)  # cleaned as the harness does
    assert len([context for context, _ in asked if context.startswith("Q: What is human life expectancy")]) == 4 * 12
    assert values["truthfulqa"] == pytest.approx([0.5] * 12)


def test_equal_questions_on_validation_are_others(tiny, questions, monkeypatch):
    monkeypatch.setattr(Likelihoods, "_loglikelihood_tokens", lambda self, requests, **_: [(-1.0, False)] * len(requests))
    values = answered(Likelihoods(*tiny), questions, split="val", shots=False)
    assert {name: len(items) for name, items in values.items()} == {"arc": 4, "hellaswag": 4, "mmlu": 4, "truthfulqa": 4}
    assert harness.METRICS["arc"] == "acc_norm"
