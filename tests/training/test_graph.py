"""A function as a CUDA graph does what it does when it is called; on a processor it is called."""

import random
from dataclasses import replace

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from glora_lib.glora.adapt import adapt
from glora_lib.glora.generation import Generation
from glora_lib.glora.masked import Masks
from glora_lib.glora.space import Space
from glora_lib.methods import METHODS
from glora_lib.runs.profiles import PAPER
from glora_lib.training.graph import WARM_UP, Graphed, Pool
from glora_lib.training.many import Program

RANKS, CPU = (4, 2), torch.device("cpu")


class NoGraph(TorchDispatchMode):
    """Refuses what a graph cannot hold: a tensor made from numbers, and a number or a shape that is read from a tensor."""

    REFUSED = ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select")

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert function.overloadpacket.__name__ not in self.REFUSED, function
        return function(*arguments, **(options or {}))


def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=3, img_size=16, drop_path_rate=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["glora", "lora", "fact_tk", "repadapter"])
def test_a_step_of_a_program_can_be_a_graph(method, dtype):
    """After the first one, as a GPU's plain calls come before a graph. Noise that a GPU draws itself is left out."""
    net = adapt(backbone(), rank=4) if method == "glora" else METHODS[method](backbone())
    choices = Masks(Space(net.layer_names, RANKS), 4, CPU) if method == "glora" else None
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])
    program = Program([net], [TensorDataset(images, labels)], [replace(PAPER, dtype=dtype)], [0], choices)
    program.train_batch([[0, 1, 2, 3]])
    codes = torch.tensor([choices.sample(random.Random(1)) if choices else []])
    with NoGraph():
        program.step(images[None], labels[None], codes, program.peaks)


def test_scoring_a_generation_can_be_a_graph():
    net = adapt(backbone(), rank=4).eval()
    space, images = Space(net.layer_names, RANKS), torch.randn(4, 3, 16, 16)
    generation = Generation(net, space)
    generation([space.sample(random.Random(0))] * 2, images)
    codes = torch.tensor([generation.masks.sample(random.Random(seed)) for seed in (1, 2)])
    with torch.no_grad(), NoGraph():
        generation.answer(codes, images)


def test_what_a_function_changes_in_place_changes_in_every_call(place):
    """Plain calls, capture and replays of two shapes in turns, beside another graph in the same memory."""
    total = torch.zeros(4, device=place)

    def add(x):
        total.add_(x.sum(0))
        return total * 2

    added, squared = Graphed(add, place), Graphed(lambda x: (x * x).sum(0), place)
    if place.type == "cuda":
        added.pool = squared.pool = Pool(place)
    expected = 0.0
    for number in range(4 * WARM_UP):
        rows = 2 + number % 2
        x = torch.full((rows, 4), float(number), device=place)
        expected += rows * number
        twice, squares = added(x), squared(x)
        assert twice.tolist() == [2 * expected] * 4
        assert squares.tolist() == [rows * number**2] * 4
    assert total.tolist() == [expected] * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_that_graphs_share_outlives_each_of_them():
    place = torch.device("cuda")
    pool = Pool(place)
    for number in range(2):
        double = Graphed(lambda x: x * 2, place)
        double.pool = pool
        for _ in range(2 * WARM_UP):
            assert double(torch.full((4,), float(number), device=place)).tolist() == [2.0 * number] * 4
        del double
        torch.cuda.empty_cache()


def test_random_numbers_are_new_in_every_call_and_the_same_from_the_same_seed(place):
    draw = Graphed(lambda x: torch.empty_like(x).bernoulli_(0.5), place)
    x, seen = torch.zeros(1000, device=place), []
    for _ in range(2 * WARM_UP):
        draw(x)
    for _ in range(2):
        torch.manual_seed(1)
        seen.append([draw(x).clone() for _ in range(2)])
    (first, second), again = seen
    assert not torch.equal(first, second)
    assert torch.equal(torch.stack([first, second]), torch.stack(again))
    assert first.mean().item() == pytest.approx(0.5, abs=0.1)
