"""The score of a subnet on validation images, and its early stop."""

import random

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from glora_lib.glora.adapt import adapt
from glora_lib.glora.score import Score
from glora_lib.glora.search import evolve
from glora_lib.glora.space import Space
from glora_lib.training.accuracy import accuracy
from glora_lib.training.batch import TrainingError


class Images(TensorDataset):
    """Rows that are read in batches by a list of places, as a task's splits are."""

    def __getitem__(self, places):
        return tuple(tensor[places] for tensor in self.tensors)


@pytest.fixture
def net():
    """A supernet of two layers with random support tensors, so that subnets differ."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 8), nn.GELU())
    model.append(nn.Linear(8, 3))
    net = adapt(model, rank=2, train=("4",))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return net


@pytest.fixture
def data():
    torch.manual_seed(1)
    return Images(torch.randn(60, 6), torch.randint(3, (60,)))


def test_without_a_floor_it_is_the_accuracy_of_every_subnet(net, data):
    score, space, rng = Score(net, data), Space(net.layer_names, (2,)), random.Random(0)
    for config in [space.sample(rng) for _ in range(20)]:
        assert score(config) == accuracy(net.use(config), data)


@pytest.mark.parametrize("training", [True, False])
def test_the_net_stays_as_it_was(net, data, training):
    config = Space(net.layer_names, (2,)).sample(random.Random(0))
    Score(net.train(training), data)(config)
    assert net.training == training
    assert all(net.layer(name).formed is None for name in net.layer_names)


def test_no_more_images_than_can_decide_are_shown(net, data):
    score, config = Score(net, data, least=1), Space(net.layer_names, (2,)).sample(random.Random(0))
    true = score(config)  # after this the images that are answered wrongly come first
    score.images_seen = 0
    assert score(config, true + 1 / 60) is None
    assert score.images_seen == round(60 * (1 - true))


@pytest.mark.parametrize("least", [1, 7, 60, 100])
def test_none_exactly_for_what_lies_below_the_floor(net, data, least):
    score, space, rng = Score(net, data, least=least), Space(net.layer_names, (2,)), random.Random(1)
    below = 0
    for config in [space.sample(rng) for _ in range(30)]:
        true = accuracy(net.use(config), data)
        for floor in (0.0, true - 1 / 60, true, true + 1e-4, true + 1 / 60, 1.0):
            expected = None if floor > true + 1e-9 else true
            assert score(config, floor) == expected
            below += expected is None
    assert below > 30


def test_a_search_that_stops_early_takes_the_same_path_and_sees_fewer_images(net, data):
    space = Space(net.layer_names, (2,))
    settings = {"population": 12, "parents": 3, "mutations": 6, "crossovers": 6, "generations": 6, "seed": 2}
    whole, stopped = Score(net, data), Score(net, data, least=5)
    slow = evolve(space, score=whole, **settings)
    fast = evolve(space, score=stopped, stop_early=True, **settings)

    def path(found):
        return [[space.encode(e.config) for e in found.generation(g)] for g in range(7)]

    assert path(fast) == path(slow)
    assert (fast.best, fast.score, fast.ties) == (slow.best, slow.score, slow.ties)
    true = {space.encode(e.config): e.score for e in slow.ranking}
    assert all(e.score == true[space.encode(e.config)] for e in fast.ranking if e.exact)
    assert all(true[space.encode(e.config)] < e.score for e in fast.ranking if not e.exact)
    assert all(e.exact for e in fast.generation(0))
    assert sum(not e.exact for e in fast.ranking) > 20
    assert stopped.images_seen < whole.images_seen == 60 * len(slow.ranking)


@pytest.mark.parametrize("most", [1, 7])
def test_how_many_images_are_scored_at_once_changes_nothing(net, data, most):
    config = Space(net.layer_names, (2,)).sample(random.Random(3))
    shown, at_once, whole = [], Score(net, data, most=most), Score(net, data, most=len(data))(config)
    wrong = at_once._wrong
    at_once._wrong = lambda places: (shown.append(len(places)), wrong(places))[1]
    assert at_once(config) == whole
    assert max(shown) == most
    assert sum(shown) == len(data)


def test_a_search_is_not_continued_with_the_scores_of_other_images_or_weights(net, data, tmp_path):
    space = Space(net.layer_names, (2,))
    few = {"population": 4, "parents": 2, "mutations": 2, "crossovers": 2, "generations": 1, "checkpoint": tmp_path / "s.json"}
    found = evolve(space, score=Score(net, data), **few)
    assert evolve(space, score=Score(net, data), **few).ranking == found.ranking
    other = Images(data.tensors[0] + 1, data.tensors[1])
    with pytest.raises(ValueError, match="belongs to a search with other settings, scores or layers"):
        evolve(space, score=Score(net, other), **few)
    with torch.no_grad():
        net.layer("0").Bd.add_(1)
    with pytest.raises(ValueError, match="belongs to a search with other settings, scores or layers"):
        evolve(space, score=Score(net, data), **few)


def test_labels_without_an_output_are_an_error(net, data):
    config = Space(net.layer_names, (2,)).sample(random.Random(0))
    with pytest.raises(TrainingError, match="label 3 has no output: the model has 3"):
        Score(net, Images(data.tensors[0], data.tensors[1] + 1))(config)
