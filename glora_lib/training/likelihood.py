"""Log-likelihoods of texts under a causal language model, for many answers to one question: each question is computed once.

Questions that begin alike (examples in front of them) share the keys and values of their beginning. The answers to a question
follow it in one sequence, and a mask keeps each from seeing the others. Knows torch and models of transformers alone.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from glora_lib.training.batch import TrainingError

Pair = tuple[Sequence[int], Sequence[int]]  # tokens of a context and of what continues it
SHARED = 64  # tokens that contexts must have in common before they are computed apart


@torch.no_grad()
def loglikelihoods(model: nn.Module, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
    """Return for each pair log p(continuation | context), and whether every token of it is the likeliest.

    Args:
        model: a causal language model of transformers; it is put into evaluation mode.
        pairs: neither part may be empty.

    Raises ValueError for a pair that is longer than the model's context, TrainingError for scores that are not finite.
    """
    model.eval()
    longest = getattr(model.config, "max_position_embeddings", None)
    for context, continuation in pairs:
        if not context or not continuation:
            raise ValueError("a context and its continuation need at least one token each")
        if longest and len(context) + len(continuation) > longest:
            raise ValueError(
                f"a text of {len(context) + len(continuation)} tokens is longer than the model's context of {longest}; "
                "give fewer examples in front of the question"
            )
    answers: dict[tuple[int, ...], list[int]] = {}  # context -> places of its pairs
    for place, (context, _) in enumerate(pairs):
        answers.setdefault(tuple(context), []).append(place)
    found: list[tuple[float, bool] | None] = [None] * len(pairs)
    for shared, contexts in _blocks(sorted(answers)):
        cache = _decoder(model)(_row(model, contexts[0][:shared]), use_cache=True).past_key_values if shared else None
        for context in contexts:
            continuations = [pairs[place][1] for place in answers[context]]
            values = _answers(model, context[shared:], continuations, cache, shared)
            for place, value in zip(answers[context], values, strict=True):
                found[place] = value
    return found


def _blocks(contexts: list[tuple[int, ...]]) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """Yield groups of sorted contexts and how many first tokens all of a group share, 0 where it is not worth it.

    The last token of a context is never shared: what follows is read from it.
    """
    block, shared = [contexts[0]], len(contexts[0]) - 1
    for context in contexts[1:]:
        common = min(_common(block[-1], context), shared, len(context) - 1)
        if common < SHARED:
            yield (shared if len(block) > 1 else 0), block
            block, common = [], len(context) - 1
        block, shared = [*block, context], common
    yield (shared if len(block) > 1 else 0), block


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


def _answers(
    model, rest: Sequence[int], continuations: Sequence[Sequence[int]], cache, before: int
) -> list[tuple[float, bool]]:
    """Return the values of the continuations of one context, whose first `before` tokens are in the cache."""
    # the last token of a continuation predicts nothing that is asked
    tokens, positions, owner = list(rest), list(range(before, before + len(rest))), [-1] * len(rest)
    asked = []  # (place of the prediction, token) of every continuation
    for number, continuation in enumerate(continuations):
        places = [len(rest) - 1, *range(len(tokens), len(tokens) + len(continuation) - 1)]
        asked.append(list(zip(places, continuation, strict=True)))
        tokens += continuation[:-1]
        positions += range(before + len(rest), before + len(rest) + len(continuation) - 1)
        owner += [number] * (len(continuation) - 1)
    hidden = _decoder(model)(
        _row(model, tokens),
        position_ids=_row(model, positions),
        attention_mask=_mask(model, owner, before),
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state[0]
    if cache is not None:
        cache.crop(-len(tokens))
    places = sorted({place for pairs in asked for place, _ in pairs})
    rows = {place: row for row, place in enumerate(places)}
    scores = model.get_output_embeddings()(hidden[places]).float().log_softmax(-1)
    if not scores.isfinite().all():
        raise TrainingError("the model's scores are not finite; look for NaN or infinity in its weights")
    best = scores.argmax(-1).tolist()
    values = []
    for pairs in asked:
        logs = scores[[rows[place] for place, _ in pairs], [token for _, token in pairs]]
        values.append((float(logs.double().sum()), all(best[rows[place]] == token for place, token in pairs)))
    return values


def _mask(model, owner: Sequence[int], before: int) -> Tensor:
    """Return what may be seen, (1, 1, T, before + T), 0 or minus infinity: the past, but for other continuations."""
    owner = torch.tensor(owner, device=model.device)
    place = torch.arange(len(owner), device=model.device)
    seen = (place[:, None] >= place) & ((owner == -1) | (owner == owner[:, None]))
    seen = torch.cat([seen.new_ones(len(owner), before), seen], dim=1)
    return torch.zeros(1, 1, *seen.shape, dtype=model.dtype, device=model.device).masked_fill(~seen, float("-inf"))


def _decoder(model):
    return model.get_decoder()


def _row(model, values: Sequence[int]) -> Tensor:
    return torch.tensor([list(values)], device=model.device)
