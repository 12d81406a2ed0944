"""A supernet as a program of one, as on a GPU, is what the loop makes of it; what cannot be one is trained by the loop."""

import copy
import random
import weakref
from dataclasses import replace

import pytest
import timm
import torch
from torch.utils.data import TensorDataset

from glora_lib.glora import supernet
from glora_lib.glora.adapt import adapt
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Space
from glora_lib.glora.supernet import train_supernet
from glora_lib.runs.profiles import SMOKE
from glora_lib.training import deadline
from glora_lib.training.batch import TrainingError
from glora_lib.training.deadline import OutOfTime
from glora_lib.training.loop import train

RECIPE = replace(SMOKE.for_method("glora"), epochs=3, batch_size=8)


@pytest.fixture
def net() -> AdaptedModel:
    model = timm.create_model("test_vit", num_classes=3, img_size=16, depth=2, drop_path_rate=0.2)
    return adapt(model.double(), rank=4, scale_broadcast=True)


@pytest.fixture
def images() -> TensorDataset:
    return TensorDataset(torch.randn(20, 3, 16, 16, dtype=torch.float64), torch.randint(3, (20,)))


@pytest.fixture
def programs(monkeypatch) -> list[int]:
    """Supernets are programs here, too; how many were asked for, one entry each."""
    asked, train_many = [], supernet.train_many
    monkeypatch.setattr(supernet, "_has_graphs", lambda place: True)
    monkeypatch.setattr(
        supernet, "train_many", lambda nets, *rest, **named: asked.append(len(nets)) or train_many(nets, *rest, **named)
    )
    return asked


def space(net: AdaptedModel) -> Space:
    return Space(net.layer_names, (4, 2), net.kinds)


@torch.no_grad()
def logits(net: AdaptedModel, images: TensorDataset) -> torch.Tensor:
    """What a subnet with every form of every tensor answers; tensors themselves agree less, see `test_many`."""
    return net.use(space(net).sample(random.Random(0)))(images[:][0])


def losses(history: list[dict]) -> list[float]:
    return [epoch["loss"] for epoch in history]


def test_a_program_of_one_ends_as_the_loop_does(net, images, programs):
    other = copy.deepcopy(net)
    history = train_supernet(net, space(net), images, RECIPE, seed=4)
    assert programs == [1]
    assert losses(history) == pytest.approx(losses(train(other, images, RECIPE, sample=space(net).sample, seed=4)), rel=1e-10)
    torch.testing.assert_close(logits(net, images), logits(other, images), rtol=1e-8, atol=1e-8)


def test_who_watches_sees_the_supernet_of_that_epoch_in_evaluation_mode(net, images, programs):
    def watching(model: AdaptedModel, kept: list):
        def watch(epoch: int) -> dict:
            assert not model.training
            kept.append(logits(model, images))
            return {"of": epoch}

        return watch

    other, mine, theirs = copy.deepcopy(net), [], []
    history = train_supernet(net, space(net), images, RECIPE, watch=watching(net, mine))
    train(other, images, RECIPE, sample=space(net).sample, watch=watching(other, theirs))
    assert programs == [1]
    assert [epoch["of"] for epoch in history] == [0, 1, 2]
    torch.testing.assert_close(torch.stack(mine), torch.stack(theirs), rtol=1e-8, atol=1e-8)
    assert (mine[0] != mine[2]).any()


@pytest.mark.parametrize("again_on_a_gpu", [True, False])
def test_what_was_interrupted_goes_on_as_what_it_was(net, images, programs, tmp_path, monkeypatch, again_on_a_gpu):
    """A program's checkpoint is read by a program, wherever that is, so that nothing is trained twice."""
    other, whole = copy.deepcopy(net), copy.deepcopy(net)
    expected = losses(train_supernet(whole, space(net), images, RECIPE))
    with deadline.until(0.0), pytest.raises(OutOfTime, match="1 of 3 epochs of 1 runs are kept"):
        train_supernet(net, space(net), images, RECIPE, checkpoint=tmp_path / "train.pt")
    monkeypatch.setattr(supernet, "_has_graphs", lambda place: again_on_a_gpu)
    assert losses(train_supernet(other, space(net), images, RECIPE, checkpoint=tmp_path / "train.pt")) == expected
    assert programs == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["program-train.pt"]


def test_the_loop_goes_on_from_its_own_checkpoint_also_on_a_gpu(net, images, programs, tmp_path):
    other, whole = copy.deepcopy(net), copy.deepcopy(net)
    expected = losses(train(whole, images, RECIPE, sample=space(net).sample))
    with deadline.until(0.0), pytest.raises(OutOfTime):
        train(net, images, RECIPE, sample=space(net).sample, checkpoint=tmp_path / "train.pt")
    assert losses(train_supernet(other, space(net), images, RECIPE, checkpoint=tmp_path / "train.pt")) == expected
    assert programs == []


def test_data_that_take_lists_alone_are_enough(net, images, programs):
    class Lists(TensorDataset):
        def __getitem__(self, places: list[int]):
            assert isinstance(places, list)
            return super().__getitem__(places)

    assert losses(train_supernet(net, space(net), Lists(*images.tensors), replace(RECIPE, epochs=1)))
    assert programs == [1]


def test_what_did_not_fit_is_gone_before_the_loop_begins(net, images, programs, monkeypatch):
    held, loop = [], supernet.train

    class Large:
        """What a program holds."""

    def cramped(*_, **__):
        large = Large()
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("too much")

    def train_then(*given, **named):
        assert held[0]() is None
        return loop(*given, **named)

    monkeypatch.setattr(supernet, "train_many", cramped)
    monkeypatch.setattr(supernet, "train", train_then)
    assert len(train_supernet(net, space(net), images, RECIPE)) == RECIPE.epochs


def test_layers_without_masks_are_trained_by_the_loop(images, programs):
    model = timm.create_model("test_efficientnet", num_classes=3).double()
    net = adapt(model, layers=["conv"], rank=2)
    history = train_supernet(net, Space(net.layer_names, (2,), net.kinds), images, replace(RECIPE, epochs=1))
    assert len(history) == 1
    assert "program" not in str(history)


@pytest.mark.parametrize("epochs", [0, 1])
def test_memory_that_does_not_do_is_the_loops_unless_the_supernet_has_been_trained(net, images, programs, monkeypatch, epochs):
    train_many = supernet.train_many

    def cramped(nets, data, recipes, **named):
        if epochs:
            train_many(nets, data, [replace(recipes[0], epochs=epochs)], **named)
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(supernet, "train_many", cramped)
    if epochs:
        with pytest.raises(
            TrainingError, match="does not fit into the memory of cpu any more; make room there, or start again with"
        ):
            train_supernet(net, space(net), images, RECIPE)
    else:
        assert len(train_supernet(net, space(net), images, RECIPE)) == RECIPE.epochs
