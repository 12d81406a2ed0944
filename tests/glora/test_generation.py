"""A generation of subnets as one batch answers as its subnets do one by one, and the search takes the same path."""

import random

import pytest
import timm
import torch
from fixtures.formula import dense, random_layer
from torch.utils.data import TensorDataset

from glora_lib.glora.adapt import adapt
from glora_lib.glora.generation import Generation
from glora_lib.glora.masked import STORAGE, Masks
from glora_lib.glora.score import Score
from glora_lib.glora.search import evolve
from glora_lib.glora.space import Choice, Space
from glora_lib.training.batch import TrainingError
from glora_lib.training.graph import WARM_UP
from glora_lib.training.stacked import Unsuited

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("scaled", [False, True], ids=["as printed", "divided by d1"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (1, 4)], ids=str)
def test_masks_give_the_weight_and_bias_of_every_choice(shape, bias, scaled):
    """All 900 choices at once, against the equation written out."""
    layer = random_layer(*shape, bias, rank=4)
    layer.scale_broadcast = scaled
    space = Space(("layer",), (4, 2))
    masks = Masks(space, 4, torch.device("cpu"), prefix="")
    tensors = {f"layer.{name}": getattr(layer, name)[None] for name in STORAGE}
    masks.form(layer, "layer")
    masks.set(torch.arange(len(space.choices()))[:, None])
    with masks.formed(tensors):
        W, b = masks.weights["layer"]
    assert all(vector.is_contiguous() for vector in b)
    for number, choice in enumerate(space.choices()):
        expected_W, expected_b = dense(layer, choice)
        torch.testing.assert_close(W[number], expected_W, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            b[number], torch.zeros_like(b[number]) if expected_b is None else expected_b, rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize(
    "choice", [Choice("lora2", "vector", "none", "scalar", "vector"), Choice(), Choice(B="lora4", C="vector")], ids=str
)
def test_what_is_sampled_is_what_gets_a_gradient(choice):
    layer = random_layer(4, 3, True, rank=4).use(choice)
    layer(torch.randn(5, 3, dtype=torch.float64, requires_grad=True)).square().sum().backward()
    space = Space(("layer",), (4, 2))
    masks = Masks(space, 4, torch.device("cpu"), prefix="")
    codes = torch.tensor([masks.codes({"layer": choice})])
    names = [f"layer.{name}" for name in STORAGE]
    expected = [getattr(layer, name).grad is not None for name in STORAGE]
    assert masks.sampled(codes, [*names, "head.weight"])[0].tolist() == [*expected, True]


@pytest.fixture
def net():
    """A tiny ViT's supernet in float64 with random support tensors."""
    torch.manual_seed(0)
    net = adapt(timm.create_model("test_vit", num_classes=4, img_size=16, depth=2), rank=4, scale_broadcast=True).double()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return net.eval()


@pytest.fixture
def data():
    torch.manual_seed(1)
    return TensorDataset(torch.randn(30, 3, 16, 16, dtype=torch.float64), torch.randint(4, (30,)))


@pytest.mark.parametrize(("room", "tried"), [(3, [5, 2, 2, 2, 2, 1, 2]), (0, [5, 2, 1])], ids=["for some", "for none"])
def test_memory_that_does_not_do_for_a_batch_of_subnets_takes_fewer(net, data, monkeypatch, room, tried):
    space, rng, sizes, answer = Space(net.layer_names, (4, 2)), random.Random(0), [], Generation.__call__
    configs = [space.sample(rng) for _ in range(9)]

    def cramped(generation, part, images):
        sizes.append(len(part))
        if len(part) > room:
            raise torch.OutOfMemoryError("too much")
        return answer(generation, part, images)

    monkeypatch.setattr(Generation, "__call__", cramped)
    score = Score(net, data)
    assert score.all(configs, space, together=5) == [Score(net, data)(config) for config in configs]
    assert score.all(configs[:2], space, together=5) == [Score(net, data)(config) for config in configs[:2]]
    assert sizes == tried
    assert score.images_seen == 11 * len(data)


def test_every_subnet_answers_as_alone_also_after_the_supernet_changed(net, data, place):
    space, rng, images = Space(net.layer_names, (4, 2)), random.Random(0), data.tensors[0].to(place)
    generation = Generation(net.to(place), space)
    for _ in range(2 * WARM_UP):
        configs = [space.sample(rng) for _ in range(4)]
        out = generation(configs, images)
        assert out.shape == (4, 30, 4)
        for config, logits in zip(configs, out, strict=True):
            torch.testing.assert_close(logits, net.use(config)(images).detach(), rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            net.model.blocks[0].attn.qkv.Bd.add_(0.5)  # training goes on


def test_an_adapted_layer_before_the_blocks_sees_each_subnet_s_images(data):
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=4, img_size=16, depth=2)
    net = adapt(torch.nn.Sequential(torch.nn.Linear(16, 16), vit), rank=4, train=("1.head",)).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) * parameter.requires_grad)
    space, images = Space(net.layer_names, (4, 2)), data.tensors[0]
    configs = [space.sample(random.Random(seed)) for seed in range(3)]
    for config, logits in zip(configs, Generation(net, space)(configs, images), strict=True):
        torch.testing.assert_close(logits, net.use(config)(images).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kinds", [["conv"], ["norm"], ["linear"]], ids=str)
def test_layers_without_masks_are_refused(kinds):
    """Convolutions and normalisations, which derive from the linear layer, and a linear layer that gains no bias."""
    model = timm.create_model("test_efficientnet" if kinds != ["linear"] else "test_vit", num_classes=4)
    if kinds == ["linear"]:
        model.blocks[1].mlp.fc1 = torch.nn.Linear(64, model.blocks[1].mlp.fc2.in_features, bias=False)
    net = adapt(model, rank=2, layers=kinds, gain_bias=False)
    space = Space(net.layer_names, (2,), net.kinds)
    with pytest.raises(Unsuited, match="only linear layers have masks"):
        Generation(net, space)


def test_a_search_scored_by_generations_takes_the_same_path_to_the_same_winner(net, data):
    space, score = Space(net.layer_names, (4, 2)), Score(net, data)
    settings = {
        "population": 10,
        "parents": 3,
        "mutations": 4,
        "crossovers": 4,
        "generations": 3,
        "seed": 1,
        "shapes": net.shapes,
    }
    one_by_one = evolve(space, score=score, **settings)
    score.images_seen = 0
    together = evolve(space, score_all=lambda configs: score.all(configs, space, together=4), **settings)
    assert [(space.encode(e.config), e.score) for e in together.ranking] == [
        (space.encode(e.config), e.score) for e in one_by_one.ranking
    ]
    assert score.images_seen == len(together.ranking) * 30
    stopped = evolve(space, score=score, stop_early=True, **settings)
    assert stopped.best == together.best


def test_outputs_that_are_not_finite_are_an_error(net, data):
    with torch.no_grad():
        net.model.head.bias[0] = torch.inf
    score, space = Score(net, data), Space(net.layer_names, (4, 2))
    config = space.sample(random.Random(0))
    for use in (lambda: score(config), lambda: score.all([config], space)):
        with pytest.raises(TrainingError, match="are not finite"):
            use()
