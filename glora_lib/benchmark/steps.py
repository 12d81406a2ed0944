"""Training steps that are timed in turns: ours, the literal formula's, peft's, and full fine-tuning's."""

import random
import time
from collections.abc import Callable, Hashable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from glora_lib.benchmark.literal import literal
from glora_lib.benchmark.others import peft_glora, peft_lora
from glora_lib.benchmark.setting import Setting
from glora_lib.glora.adapt import adapt
from glora_lib.glora.model import AdaptedModel, fuse
from glora_lib.glora.space import Choice, Space
from glora_lib.methods import METHODS
from glora_lib.training.batch import Gradients, autocast
from glora_lib.training.head import head_parameters
from glora_lib.training.loop import adamw

RANK = 8  # of the fixed configuration and of LoRA
FIXED = Choice("lora8", "lora8", "vector", "vector", "vector")
Visit = Callable[[int], object]  # called with the number of the round


def in_turns(visits: Mapping[Hashable, Visit], rounds: int, seed: int = 0) -> dict[Hashable, list[float]]:
    """Return the seconds of every visit in every round; the order is shuffled anew in each. Round 0 is not counted."""
    rng, seconds = random.Random(seed), {name: [] for name in visits}
    for number in range(rounds + 1):
        for name in rng.sample(list(visits), len(visits)):
            start = time.perf_counter()
            visits[name](number)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def model(name: str, setting: Setting) -> nn.Module:
    """Return the model that a step of this name trains; see `STEPS`."""
    rank, scale = setting.profile.rank, setting.profile.scale_broadcast
    match name:
        case "supernet":
            return adapt(setting.backbone(), rank=rank, scale_broadcast=scale)
        case "supernet, literal":
            return literal(setting.backbone(), rank, scale)
        case "fixed":
            net = adapt(setting.backbone(), rank=RANK)
            return net.use(Space(net.layer_names, (RANK,)).uniform(FIXED))
        case "fixed, peft":
            return peft_glora(setting.backbone(), RANK)
        case "B alone":
            net = adapt(setting.backbone(), rank=RANK)
            for name in net.layer_names:
                layer = net.layer(name)
                for tensor in (layer.Ad, layer.Au, layer.Cd, layer.Cu, layer.D, layer.E):
                    tensor.requires_grad_(False)
            return net.use(Space(net.layer_names, (RANK,)).uniform(Choice(B="lora8")))
        case "LoRA":
            return METHODS["lora"](setting.backbone(), rank=RANK)
        case "LoRA, peft":
            return peft_lora(setting.backbone(), RANK)
        case "full fine-tuning":
            return METHODS["full"](setting.backbone())
    raise ValueError(f"step {name!r} is not known; valid: {', '.join(STEPS)}")


STEPS = (
    *("supernet", "supernet, literal", "fixed", "fixed, peft"),
    *("B alone", "LoRA, peft", "LoRA", "full fine-tuning"),  # peft's LoRA has no dropout here, nor has GLoRA's layer
)


def step(
    net: nn.Module, setting: Setting, *, own: bool = True, dtype: str = "float32", data=None, part_size: int | None = None
) -> Visit:
    """Return one training step of the model, on the same images every time.

    A supernet takes the random configuration that belongs to the number of the round, so that the literal one takes the same.
    Ours is the step of `train`; the others' is the usual one: the whole batch, torch's choice of attention, and AdamW as
    torch has it by default.
    """
    images, labels = data or setting.images()
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-4, weight_decay=1e-4)
    if own:
        optimizer = adamw(trained, setting.profile, head_parameters(net))
    space = Space(net.layer_names, setting.profile.ranks) if isinstance(net, AdaptedModel) else None
    sampled = space is not None and all(choice == Choice() for choice in net.config.values())
    gradients = Gradients(net, dtype, part_size)
    net.train()

    def visit(number: int) -> None:
        if sampled:
            net.use(space.sample(random.Random(number)))
        optimizer.zero_grad()
        if own:
            gradients(images, labels)
        else:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = F.cross_entropy(net(images).float(), labels)
            loss.backward()
        optimizer.step()

    return visit


def named(name: str, setting: Setting, dtype: str = "float32") -> Visit:
    """Return the step of this name."""
    return step(model(name, setting), setting, own=ours(name), dtype=dtype)


def ours(name: str) -> bool:
    """Return whether a step of this name is the library's."""
    return not name.endswith(("literal", "peft"))


def times(setting: Setting, dtype: str = "float32") -> dict[str, list[float]]:
    """Return the seconds of every step in every round, and of a forward pass of the base and of a fused subnet."""
    images, _ = setting.images()
    base = setting.backbone().eval()
    net = adapt(setting.backbone(), rank=setting.profile.rank)
    fused = fuse(net.use(Space(net.layer_names, setting.profile.ranks).sample(random.Random(setting.seed)))).eval()

    def forward(module: nn.Module) -> Visit:
        @torch.inference_mode()
        def visit(number: int) -> None:
            with autocast(dtype, images.device):
                module(images)

        return visit

    visits = {name: named(name, setting, dtype) for name in STEPS}
    return in_turns(visits | {"forward, base": forward(base), "forward, fused": forward(fused)}, setting.rounds, setting.seed)
