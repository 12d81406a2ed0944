"""What is timed on a device: steps of ours, alone and many at once, the literal formula's, peft's, and a candidate's score."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from glora_lib.benchmark.literal import literal
from glora_lib.benchmark.others import peft_glora, peft_lora
from glora_lib.benchmark.steps import Visit
from glora_lib.glora.adapt import adapt
from glora_lib.glora.generation import Generation
from glora_lib.glora.masked import Masks
from glora_lib.glora.score import Score
from glora_lib.glora.space import Space
from glora_lib.measures.inference import flops
from glora_lib.methods import METHODS
from glora_lib.runs.profiles import PAPER
from glora_lib.training.batch import autocast
from glora_lib.training.graph import Pool
from glora_lib.training.loop import train_step
from glora_lib.training.many import Program

CLASSES, VALIDATION, TOGETHER = 10, 200, 25
Maker = Callable[[], Visit]


@dataclass(frozen=True)
class Model:
    """An architecture of timm and the size of its images."""

    label: str
    name: str
    image_size: int

    def make(self) -> nn.Module:
        """Return it with random weights, the same every time."""
        return copy.deepcopy(_made(self.name, self.image_size))


@cache
def _made(name: str, image_size: int) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=CLASSES, img_size=image_size)


def contestants(
    model: Model, dtype: str, place: torch.device, batch: int, runs: int
) -> tuple[dict[str, Maker], dict[str, float]]:
    """Return the contestants, and the operations of the products of some of them."""
    recipe = replace(PAPER, batch_size=batch, dtype=dtype)
    images = torch.randn(batch, 3, model.image_size, model.image_size, device=place)
    labels = torch.randint(CLASSES, (batch,), device=place)
    data = TensorDataset(images, labels)
    # all graphs in the same memory: those of 11 runs would not fit beside each other
    pool = Pool(place) if place.type == "cuda" else None

    def supernets(number: int) -> Visit:
        nets = [adapt(model.make(), rank=recipe.rank).to(place) for _ in range(number)]
        masks = Masks(Space(nets[0].layer_names, recipe.ranks), recipe.rank, place)
        program = Program(nets, [data] * number, [recipe] * number, list(range(number)), masks)
        program.step.pool = pool
        return lambda _: program.train_batch([list(range(batch))] * number)

    def loras(number: int) -> Visit:
        own = recipe.for_method("lora")
        nets = [METHODS["lora"](model.make(), rank=8).to(place) for _ in range(number)]
        program = Program(nets, [data] * number, [replace(own, dtype=dtype)] * number, list(range(number)), None)
        program.step.pool = pool
        return lambda _: program.train_batch([list(range(batch))] * number)

    def plainly(net: nn.Module, sample=None) -> Visit:
        """The usual step: torch's autocast and AdamW as they come."""
        net = net.to(place).train()
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-4)

        def visit(number: int) -> None:
            if sample is not None:
                net.use(sample(np.random.default_rng(number)))
            optimizer.zero_grad()
            with autocast(dtype, place):
                loss = F.cross_entropy(net(images).float(), labels)
            loss.backward()
            optimizer.step()

        return visit

    def full() -> Visit:
        step = train_step(METHODS["full"](model.make()).to(place).train(), recipe)
        step.pool = pool
        return lambda _: step(images, labels)

    def forward() -> Visit:
        base = model.make().to(place).eval()

        @torch.no_grad()
        def visit(_: int) -> Tensor:
            with autocast(dtype, place):
                return base(images)

        return visit

    def literally() -> Visit:
        net = literal(model.make(), recipe.rank)
        return plainly(net, Space(net.layer_names, recipe.ranks).sample)

    def score(graph: bool = True) -> Visit:
        net = adapt(model.make(), rank=recipe.rank).to(place)
        space, generator = Space(net.layer_names, recipe.ranks), np.random.default_rng(0)
        configs = [space.sample(generator) for _ in range(TOGETHER)]
        scored = Score(net, TensorDataset(images[:1].expand(VALIDATION, -1, -1, -1), labels[:1].expand(VALIDATION)), dtype)
        scored.generation = Generation(net, space, dtype)
        if graph:
            scored.generation.answer.pool = pool
        else:  # a search scores some forty such batches: is a graph of them worth what capturing it takes?
            scored.generation.answer = scored.generation.answer.function
        return lambda _: scored.all(configs, space, TOGETHER)

    makers = {
        "forward, frozen": forward,
        "supernet, literal": literally,
        "supernet": lambda: supernets(1),
        f"supernet, {runs} at once": lambda: supernets(runs),
        "LoRA": lambda: loras(1),
        f"LoRA, {runs} at once": lambda: loras(runs),
        "LoRA, peft": lambda: plainly(peft_lora(model.make(), 8)),
        "GLoRA, peft": lambda: plainly(peft_glora(model.make(), recipe.rank)),
        "full fine-tuning": full,
        f"score, {TOGETHER} at once": score,
        f"score, {TOGETHER} at once, no graph": lambda: score(graph=False),
    }
    one = float(batch * flops(model.make(), model.image_size))
    # a dense gradient of every weight, as A in LoRA's form needs, is a third product beside the two of a step
    operations = {"forward, frozen": one, "supernet": 3 * one, f"supernet, {runs} at once": 3 * runs * one}
    operations |= {"LoRA": 2 * one, f"LoRA, {runs} at once": 2 * runs * one, "full fine-tuning": 3 * one}
    scored = one / batch * VALIDATION * TOGETHER
    return makers, operations | {name: scored for name in makers if name.startswith("score")}
