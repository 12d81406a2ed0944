"""The evolution, on scores that cost nothing and whose best is known."""

import json
import random
from collections import Counter

import pytest

from glora_lib.glora.search import evolve, random_search
from glora_lib.glora.space import TENSORS, Choice, Space, to_json

SPACE = Space([f"layer{i}" for i in range(6)], (8,))
SHAPES = {name: (20 + i, 30) for i, name in enumerate(SPACE.layer_names)}
SMALL = {"population": 12, "parents": 4, "mutations": 5, "crossovers": 5}


def weights(seed: int = 0) -> dict:
    """What each form of each tensor of each layer adds to the score."""
    rng = random.Random(seed)
    return {
        (name, tensor, form): rng.random() for name in SPACE.layer_names for tensor in TENSORS for form in SPACE.forms[tensor]
    }


class Additive:
    """An additive score that remembers what it was asked."""

    def __init__(self, stop: int = 0):
        self.weights, self.asked, self.stop = weights(), [], stop

    def __call__(self, config) -> float:
        if len(self.asked) + 1 == self.stop:
            raise KeyboardInterrupt
        self.asked.append(SPACE.encode(config))
        return sum(self.weights[name, tensor, getattr(config[name], tensor)] for name in config for tensor in TENSORS)


def ranking(found) -> list[tuple]:
    return [(SPACE.encode(e.config), e.score, e.parameters, e.generation, e.number) for e in found.ranking]


def test_the_paper_s_settings_make_1050_evaluations_and_none_twice():
    score = Additive()
    found = evolve(SPACE, score=score, seed=1, shapes=SHAPES)
    assert len(score.asked) == len(set(score.asked)) == len(found.ranking) == 1050
    assert Counter(e.generation for e in found.ranking) == dict.fromkeys(range(21), 50)
    assert [e.score for e in found.ranking] == sorted((e.score for e in found.ranking), reverse=True)
    best = [max(e.score for e in found.ranking if e.generation <= g) for g in range(21)]
    assert best == sorted(best)
    assert found.score == best[-1] == score(found.best)
    assert found.score > best[0] + 1  # it learns something
    assert found.score > random_search(SPACE, score=Additive(), budget=1050, seed=1, shapes=SHAPES).score


def test_what_is_found_carries_its_own_score_and_size():
    found, score = evolve(SPACE, score=Additive(), shapes=SHAPES, generations=2, **SMALL), Additive()
    for evaluated in found.ranking:
        assert evaluated.score == score(evaluated.config)
        assert evaluated.parameters == SPACE.parameters(evaluated.config, SHAPES)
    assert [e.number for g in range(3) for e in found.generation(g)] == list(
        range(36)
    )  # in the order in which they were scored


def test_a_seed_fixes_the_search_and_the_global_generator_does_not_matter():
    first = evolve(SPACE, score=Additive(), seed=4, generations=3, **SMALL)
    random.seed(1234)
    assert ranking(evolve(SPACE, score=Additive(), seed=4, generations=3, **SMALL)) == ranking(first)
    assert ranking(evolve(SPACE, score=Additive(), seed=5, generations=3, **SMALL)) != ranking(first)


def test_every_configuration_keeps_to_the_limit():
    free = random_search(SPACE, score=Additive(), budget=200, shapes=SHAPES)
    limit = sorted(e.parameters for e in free.ranking)[60]
    found = evolve(SPACE, score=Additive(), shapes=SHAPES, limit=limit, generations=5, **SMALL)
    assert len(found.ranking) == 12 * 6
    assert max(e.parameters for e in found.ranking) <= limit


def test_an_impossible_limit_is_an_error_before_anything_is_scored():
    score = Additive()
    with pytest.raises(ValueError, match=r"at most 10 parameters; raise the limit: a random one has \d+"):
        evolve(SPACE, score=score, shapes=SHAPES, limit=10, **SMALL)
    assert score.asked == []


def test_ties_go_to_fewer_parameters_and_then_to_the_older():
    found = evolve(SPACE, score=lambda config: 0.5, shapes=SHAPES, generations=3, **SMALL)
    sizes = [e.parameters for e in found.ranking]
    assert sizes == sorted(sizes)
    assert found.ties == len(found.ranking) == 48
    for before, after in zip(found.ranking, found.ranking[1:], strict=False):
        assert (before.parameters, before.number) < (after.parameters, after.number)


def test_a_lower_score_never_wins_by_its_size():
    found = evolve(SPACE, score=lambda c: SPACE.parameters(c, SHAPES) / 1e6, shapes=SHAPES, generations=2, **SMALL)
    sizes = [e.parameters for e in found.ranking]
    assert sizes == sorted(sizes, reverse=True)


def test_the_last_generation_counts():
    """The authors' search scores it but never ranks it; here the winner appears in it, and is found."""
    calls = []

    def score(config) -> float:
        calls.append(1)
        return float(len(calls))

    found = evolve(SPACE, score=score, generations=3, **SMALL)
    assert found.ranking[0].generation == 3
    assert found.score == 48
    assert found.ranking[11].score == 37


def test_parents_come_from_all_generations_and_the_children_resemble_them():
    """A single parent crossed with itself gives nothing new, so that mutants are all that is bred from it."""
    score = Additive()
    found = evolve(
        SPACE, score=score, seed=2, population=30, parents=1, probability=0.05, generations=4, mutations=15, crossovers=15
    )
    for generation in range(1, 5):
        best = max((e for e in found.ranking if e.generation < generation), key=lambda e: e.score).config
        mutants = found.generation(generation)
        distance = [sum(getattr(m.config[n], t) != getattr(best[n], t) for n in best for t in TENSORS) for m in mutants]
        assert sum(d <= 6 for d in distance) >= 15  # 30 genes, of which a mutant changes one in thirty
        assert sum(d > 12 for d in distance) >= 10  # a cross of one parent with itself is nothing new: filled up at random


def test_a_budget_of_the_whole_space_scores_everything_once():
    space, asked, best = Space(["one"], (8,)), [], Choice("lora8", "none", "vector", "scalar", "none")

    def score(config) -> float:
        asked.append(space.encode(config))
        return float(config["one"] == best)

    found = random_search(space, score=score, budget=432)
    assert len(asked) == len(set(asked)) == 432
    assert (found.best["one"], found.score, found.ties) == (best, 1, 1)


@pytest.mark.parametrize("stops", [(1,), (7,), (13,), (30,), (48,), (5, 20, 13)], ids=str)
def test_a_search_interrupted_within_a_generation_ends_with_the_identical_ranking(tmp_path, stops):
    expected = ranking(evolve(SPACE, score=Additive(), seed=3, shapes=SHAPES, generations=3, **SMALL))
    checkpoint = tmp_path / "folder" / "search.json"
    arguments = dict(seed=3, shapes=SHAPES, generations=3, checkpoint=checkpoint, **SMALL)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            evolve(SPACE, score=Additive(stop), **arguments)
    score = Additive()
    assert ranking(evolve(SPACE, score=score, **arguments)) == expected
    assert len(score.asked) % 12 == 0  # whole generations are never scored again
    done = Additive()
    assert ranking(evolve(SPACE, score=done, **arguments)) == expected
    assert done.asked == []
    assert [file.name for file in checkpoint.parent.iterdir()] == ["search.json"]


def test_what_a_search_took_is_counted_over_its_interruptions(tmp_path, monkeypatch):
    """Time is what scoring takes, a second each; what the interrupted generation had scored is lost, and not counted."""
    first, second = Additive(stop=30), Additive()
    clock = lambda: float(len(first.asked) + len(second.asked))  # noqa: E731
    monkeypatch.setattr("glora_lib.glora.search.time.perf_counter", clock)
    arguments = dict(seed=3, shapes=SHAPES, generations=3, checkpoint=tmp_path / "search.json", **SMALL)
    with pytest.raises(KeyboardInterrupt):
        evolve(SPACE, score=first, spent=lambda: len(first.asked), **arguments)
    found = evolve(SPACE, score=second, spent=lambda: len(second.asked), **arguments)
    assert len(second.asked) < len(found.ranking) == 48
    assert (found.seconds, found.spent) == (48, 48)
    again = evolve(SPACE, score=second, spent=lambda: len(second.asked), **arguments)
    assert (again.seconds, again.spent) == (48, 48)


def test_more_generations_go_on_from_a_finished_search(tmp_path):
    arguments = dict(seed=3, shapes=SHAPES, checkpoint=tmp_path / "search.json", **SMALL)
    evolve(SPACE, score=Additive(), generations=1, **arguments)
    longer = evolve(SPACE, score=Additive(), generations=3, **arguments)
    assert ranking(longer) == ranking(evolve(SPACE, score=Additive(), seed=3, shapes=SHAPES, generations=3, **SMALL))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"population": 13},
        {"parents": 3},
        {"mutations": 4},
        {"probability": 0.3},
        {"limit": 10_000},
        {"belongs": "other weights"},
        {"shapes": SHAPES | {"layer0": (99, 30)}},
        {"space": Space(SPACE.layer_names, (8, 4))},
        {"space": Space([*SPACE.layer_names[:-1], "other"])},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_of_another_search_is_refused_and_kept(tmp_path, changes):
    checkpoint = tmp_path / "search.json"
    arguments = {"space": SPACE, "seed": 3, "shapes": SHAPES, "generations": 1, "checkpoint": checkpoint} | SMALL
    evolve(score=Additive(), **arguments)
    before = checkpoint.read_bytes()
    if "other" in changes.get("space", SPACE).layer_names:
        changes = changes | {"shapes": SHAPES | {"other": (20, 30)}}
    with pytest.raises(ValueError, match="belongs to a search with other settings, .*; delete it or restore them"):
        evolve(score=Additive(), **(arguments | changes))
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_that_cannot_be_read_says_how_to_go_on(tmp_path):
    checkpoint = tmp_path / "search.json"
    evolve(SPACE, score=Additive(), generations=1, checkpoint=checkpoint, **SMALL)
    checkpoint.write_text(checkpoint.read_text()[:-100])
    with pytest.raises(ValueError, match="is not valid JSON .*delete it to start again"):
        evolve(SPACE, score=Additive(), generations=1, checkpoint=checkpoint, **SMALL)


@pytest.mark.parametrize("content", [b"null", b"[]", b"{}", b'{"settings": 1}', b"\xff\xfe", b"3"], ids=repr)
def test_a_file_that_is_no_checkpoint_of_a_search_is_refused(tmp_path, content):
    checkpoint = tmp_path / "search.json"
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match="search.json"):
        evolve(SPACE, score=Additive(), generations=1, checkpoint=checkpoint, **SMALL)
    assert checkpoint.read_bytes() == content


def test_a_checkpoint_without_its_generator_is_refused(tmp_path):
    checkpoint = tmp_path / "search.json"
    evolve(SPACE, score=Additive(), generations=1, checkpoint=checkpoint, **SMALL)
    data = json.loads(checkpoint.read_text())
    del data["rng"]
    checkpoint.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="is no whole checkpoint of a search .*'rng'"):
        evolve(SPACE, score=Additive(), generations=2, checkpoint=checkpoint, **SMALL)


@pytest.mark.parametrize("wrong", [{"parents": 0}, {"parents": 13}, {"mutations": 8}, {"crossovers": 8}], ids=str)
def test_settings_that_do_not_add_up_are_an_error(wrong):
    with pytest.raises(ValueError, match="parents.*population"):
        evolve(SPACE, score=Additive(), **(SMALL | wrong))


@pytest.mark.parametrize("wrong", [{"generations": -1}, {"mutations": -1}, {"probability": 1.5}], ids=str)
def test_numbers_that_mean_nothing_are_an_error(wrong):
    with pytest.raises(ValueError, match="need generations, mutations and crossovers of 0 or more"):
        evolve(SPACE, score=Additive(), **(SMALL | wrong))


def test_a_generation_scored_together_gives_the_same_search():
    one_by_one, calls = Additive(), []

    def together(configs):
        calls.append(len(configs))
        return [Additive()(config) for config in configs]

    arguments = dict(seed=3, shapes=SHAPES, generations=3, **SMALL)
    found = evolve(SPACE, score_all=together, **arguments)
    assert ranking(found) == ranking(evolve(SPACE, score=one_by_one, **arguments))
    assert calls == [12] * 4
    stopped = evolve(SPACE, score=Stopping(), stop_early=True, **arguments)
    assert stopped.best == found.best
    for scores in ({}, {"score": one_by_one, "score_all": together}):
        with pytest.raises(ValueError, match="give either `score`"):
            evolve(SPACE, **scores, **arguments)


class Stopping(Additive):
    """Stops below the floor."""

    def __call__(self, config, floor=None):
        value = super().__call__(config)
        return None if floor is not None and value < floor else value


def test_random_search_spends_its_budget_on_different_configurations():
    score = Additive()
    found = random_search(SPACE, score=score, budget=137, seed=2, shapes=SHAPES)
    assert len(score.asked) == len(set(score.asked)) == len(found.ranking) == 137
    assert {e.generation for e in found.ranking} == {0}
    limit = sorted(e.parameters for e in found.ranking)[70]
    limited = random_search(SPACE, score=Additive(), budget=40, shapes=SHAPES, limit=limit)
    assert len(limited.ranking) == 40
    assert max(e.parameters for e in limited.ranking) <= limit


def test_the_best_is_a_configuration_that_json_and_the_space_take():
    found = evolve(SPACE, score=Additive(), generations=1, **SMALL)
    assert SPACE.check(found.best) is found.best
    assert json.loads(json.dumps(to_json(found.best)))
