"""Log-likelihoods of many answers to one question: the same as text by text, with and without what questions share."""

import pytest
import torch
from fixtures.llamas import tiny

from glora_lib.training.batch import TrainingError
from glora_lib.training.likelihood import SHARED, _blocks, loglikelihoods


def text_by_text(model, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    with torch.no_grad():
        scores = model(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1].log_softmax(-1)
    return float(scores[range(len(continuation)), continuation].sum()), scores.argmax(-1).tolist() == continuation


@pytest.fixture
def model():
    return tiny(vocabulary=50)


def drawn(number: int, length: int) -> list[list[int]]:
    return torch.randint(0, 50, (number, length)).tolist()


def test_answers_are_those_of_text_by_text(model):
    example, other = drawn(2, SHARED + 9)
    contexts = drawn(3, 7) + [example + tail for tail in drawn(4, 5)] + [other + tail for tail in drawn(2, 1)] + [[3]]
    pairs = [(context, answer) for context in contexts for length in (1, 4, 9) for answer in drawn(2, length)]
    best = int(model(torch.tensor([contexts[0]])).logits[0, -1].argmax())
    pairs.append((contexts[0], [best]))  # the likeliest
    pairs = [pairs[place] for place in torch.randperm(len(pairs))]
    found = loglikelihoods(model, pairs)
    expected = [text_by_text(model, *pair) for pair in pairs]
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert any(greedy for _, greedy in found)
    torch.testing.assert_close([value for value, _ in found], [value for value, _ in expected], rtol=0, atol=1e-5)


def test_what_is_shared_is_computed_once(model, monkeypatch):
    example = drawn(1, 300)[0]
    contexts = [tuple(example + tail) for tail in drawn(6, 3)]
    assert [(shared, len(block)) for shared, block in _blocks(sorted(contexts))] == [(300, 6)]
    seen = []
    decoder = model.get_decoder()
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda tokens, **rest: (seen.append(tokens.numel()), forward(tokens, **rest))[1])
    loglikelihoods(model, [(context, answer) for context in contexts for answer in drawn(4, 2)])
    assert sum(seen) == 300 + 6 * (3 + 4 * 1)  # the last token of an answer predicts nothing


def test_a_text_longer_than_the_context_is_refused(model):
    with pytest.raises(ValueError, match="a text of 514 tokens is longer than the model's context of 512; give fewer examples"):
        loglikelihoods(model, [([1] * 512, [2, 3])])
    with pytest.raises(ValueError, match="at least one token each"):
        loglikelihoods(model, [([], [2])])


def test_scores_that_are_not_finite_are_no_answers(model):
    with torch.no_grad():
        model.lm_head.weight[3, 0] = torch.nan
    with pytest.raises(TrainingError, match="the model's scores are not finite"):
        loglikelihoods(model, [([1, 2], [3])])
