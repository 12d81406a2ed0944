"""How the cost of a step grows with rank, adapted layers, tokens and batch."""

from dataclasses import replace

from torch import nn

from glora_lib.benchmark.setting import Setting
from glora_lib.benchmark.steps import Visit, in_turns, step
from glora_lib.glora.adapt import adapt
from glora_lib.glora.space import Choice, Space

RANKS = (2, 4, 8, 16, 32)
SIDES = (3, 5, 7, 9)  # patches
BATCHES = (8, 16, 32, 64)
BATCH = 16  # where another quantity varies


def growth(setting: Setting, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return {quantity: {value: seconds of a step in every round}}; values are strings, as in JSON.

    A and B are LoRA and C, D, E vectors, rank 8 unless it varies, 16 images unless they vary. "blocks" counts from the last:
    gradients are not needed below the first adapted layer.
    """
    setting = replace(setting, batch=BATCH)
    depth = len(setting.backbone().blocks)
    visits = {
        "rank": {rank: _step(setting, rank=rank) for rank in RANKS},
        "blocks": {number: _step(setting, blocks=number) for number in sorted({1, depth // 4, depth // 2, depth})},
        "tokens": {_tokens(at): _step(at) for at in (replace(setting, side=side) for side in SIDES)},
        "batch": {batch: _step(replace(setting, batch=batch)) for batch in BATCHES},
    }
    flat = {(what, value): visit for what, values in visits.items() for value, visit in values.items()}
    seconds = in_turns(flat, rounds, setting.seed)
    return {what: {str(value): seconds[what, value] for value in values} for what, values in visits.items()}


def _step(setting: Setting, rank: int = 8, blocks: int | None = None) -> Visit:
    backbone = setting.backbone()
    depth = len(backbone.blocks)
    below = depth - (depth if blocks is None else blocks)
    net = adapt(backbone, rank=rank, skip=[f"blocks.{number}" for number in range(below)])
    net.use(Space(net.layer_names, (rank,)).uniform(Choice(f"lora{rank}", f"lora{rank}", "vector", "vector", "vector")))
    return step(net, setting)


def _tokens(setting: Setting) -> int:
    backbone: nn.Module = setting.backbone()
    return backbone.pos_embed.shape[1]
