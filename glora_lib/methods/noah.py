"""NOAH (Zhang et al., 2022): a supernet of prompts, LoRA and adapters, searched for how wide and how deep each of them goes.

Each of the three has a width in every block, and 0 in blocks behind its depth. Training samples a configuration at each step,
`train(net, data, recipe, sample=net.sample)`; `search` ranks configurations on validation data; the best is trained anew alone:
`train(noah(fresh_model, config=best), ...)`.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from glora_lib.glora.fusable import Fusable, NotFusable
from glora_lib.methods.adapters import SerialAdapter
from glora_lib.methods.lora import LoRALinear
from glora_lib.methods.prompts import Prompted
from glora_lib.methods.vit import blocks, check_rank, freeze, layers

PARTS = ("prompt", "lora", "adapter")
NoahConfig = Mapping[str, Sequence[int]]  # part -> width in every block


def noah(
    model: nn.Module, widths: Sequence[int] = (1, 5, 10), config: NoahConfig | None = None, dropout: float = 0.1
) -> "NOAH":
    """Return the model as NOAH's supernet, its largest subnet in use; with `config`, as that subnet alone.

    Prompts as VPT-Deep's, LoRA with one `down` for the whole qkv, Adapter behind the MLP; `widths` are those of the published
    subnets, and depths are quarters of the model's. Storage is as wide as the widest choice (the authors store 100).
    Raises ValueError for widths below 1, a configuration of another depth and LoRA wider than its layer.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must be positive, not {widths}")
    depth = len(layers(model, ("attn.qkv",)))
    return NOAH(model, widths, config or dict.fromkeys(PARTS, (max(widths),) * depth), dropout)


class NOAH(Fusable):
    """A ViT with prompts, LoRA and adapters; `config` is the subnet in use, `stored` the largest."""

    def __init__(self, model: nn.Module, widths: Sequence[int], config: NoahConfig, dropout: float):
        super().__init__()
        found = list(layers(model, ("attn.qkv",)).items())
        layers(model, ("ls2",), nn.Module)
        depth = len(found)
        if set(config) != set(PARTS) or any(len(config[part]) != depth for part in PARTS):
            raise ValueError(f"a configuration has {depth} widths for each of {', '.join(PARTS)}, not {dict(config)}")
        if min(min(config[part]) for part in PARTS) < 0:
            raise ValueError(f"widths of a configuration are 0 or more, not {dict(config)}")
        check_rank(max(1, *config["lora"]), dict(found))
        self.widths, self.depths = tuple(widths), sorted({-(-depth * quarter // 4) for quarter in (1, 2, 3, 4)})
        self.stored = {part: tuple(config[part]) for part in PARTS}
        self.shapes = model.embed_dim, sum(found[0][1].weight.shape)
        self.places: dict[str, list[nn.Module | None]] = {part: [None] * depth for part in PARTS}
        freeze(model)
        for index, block in enumerate(blocks(model)):
            if rank := config["lora"][index]:
                block.attn.qkv = self.places["lora"][index] = LoRALinear(block.attn.qkv, rank, dropout=dropout)
            if width := config["adapter"][index]:
                block.ls2 = SerialAdapter(block.ls2, model, width, dropout)
                self.places["adapter"][index] = block.ls2.adapter
            if tokens := config["prompt"][index]:
                model.blocks[index] = self.places["prompt"][index] = Prompted([block], tokens, model, dropout)
        self.model = model
        self.use(self.stored)

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)

    def use(self, config: NoahConfig) -> "NOAH":
        """Choose a subnet and return the model; a ValueError for one that is wider than what is stored."""
        for part in PARTS:
            for width, most in zip(config[part], self.stored[part], strict=True):
                if not 0 <= width <= most:
                    raise ValueError(f"width {width} of {part} is not in storage; valid there: 0 to {most}")
        for part in PARTS:
            for place, width in zip(self.places[part], config[part], strict=True):
                if place is not None:
                    place.used = width
        self.config = {part: tuple(config[part]) for part in PARTS}
        return self

    def sample(self, rng: random.Random) -> dict[str, tuple[int, ...]]:
        """Draw a depth for each part, then a width for each block up to it."""
        return {part: self._fill((), rng.choice(self.depths), rng) for part in PARTS}

    def mutate(self, config: NoahConfig, rng: random.Random, probability: float = 0.2, deepen: float = 0.4):
        """Return a copy in which a part's depth was drawn again with `probability` times `deepen`.

        As in the authors' evolution.py a deeper part gains new widths, but a width that is there never changes.
        """
        mutant = {}
        for part in PARTS:
            kept = tuple(width for width in config[part] if width)
            changes = rng.random() < probability and rng.random() < deepen
            mutant[part] = self._fill(kept, rng.choice(self.depths) if changes else len(kept), rng)
        return mutant

    def cross(self, first: NoahConfig, second: NoahConfig, rng: random.Random) -> dict[str, tuple[int, ...]]:
        """Return a child that takes every part whole from either parent."""
        return {part: tuple(rng.choice((first, second))[part]) for part in PARTS}

    def size(self, config: NoahConfig) -> int:
        """Return how many parameters a subnet stores, head excluded."""
        d, both = self.shapes
        adapters = sum(width * (2 * d + 1) + d for width in config["adapter"] if width)
        return sum(config["prompt"]) * d + sum(config["lora"]) * both + adapters

    def fuse(self):
        """Raise NotFusable."""
        raise NotFusable("NOAH cannot be fused: its prompts take part in every softmax, and its adapters have an activation")

    def _fill(self, kept: tuple[int, ...], depth: int, rng: random.Random) -> tuple[int, ...]:
        """Return `kept` cut or filled up with random widths to `depth`, then zeros to the number of blocks."""
        drawn = tuple(rng.choice(self.widths) for _ in range(depth - len(kept)))
        return (kept[:depth] + drawn) + (0,) * (len(self.stored["lora"]) - depth)


def search(
    net: NOAH,
    score: Callable[[NoahConfig], float],
    *,
    seed: int = 0,
    population: int = 50,
    parents: int = 10,
    mutations: int = 25,
    crossovers: int = 25,
    generations: int = 15,
    limit: int = 640_000,
) -> list[tuple[float, int, dict[str, tuple[int, ...]]]]:
    """Return (score, parameters, configuration) of all that were scored, best first, equal scores the smaller first.

    The authors' evolution with their settings; the last generation counts (theirs is scored, but never enters the ranking).
    Raises ValueError if no random configuration has at most `limit` parameters.
    """
    rng, seen = random.Random(seed), {}

    def rank() -> list:
        return sorted(seen.values(), key=lambda entry: (-entry[0], entry[1]))

    def breed(children: dict, wanted: int, make: Callable[[], dict], tries: int = 10) -> None:
        goal = len(children) + wanted
        for _ in range(tries * wanted):
            if len(children) == goal:
                return
            child = make()
            key = tuple(child[part] for part in PARTS)
            if key not in seen and net.size(child) <= limit:
                children[key] = child

    for generation in range(generations + 1):
        children: dict[tuple, dict] = {}
        if generation:
            best = [config for _, _, config in rank()[:parents]]
            breed(children, mutations, lambda best=best: net.mutate(rng.choice(best), rng))
            breed(children, crossovers, lambda best=best: net.cross(rng.choice(best), rng.choice(best), rng))
        breed(children, population - len(children), lambda: net.sample(rng), tries=100)
        if not seen and not children:
            raise ValueError(f"no random configuration has at most {limit} parameters; the largest has {net.size(net.stored)}")
        for key, child in children.items():
            seen[key] = float(score(child)), net.size(child), child
    return rank()
