"""How many parameters each method trains, stores and leaves in the merged model: by formula, and counted on a live model.

The head is not counted unless a row of `table` says so. The formulas hold for a ViT with a class token, biases everywhere and
one linear layer for queries, keys and values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd
from torch import nn

from glora_lib.glora.model import AdaptedModel, fuse
from glora_lib.glora.space import Space
from glora_lib.methods import NotFusable, trainable_parameters
from glora_lib.superlora import PRESETS, queries_and_values
from glora_lib.superlora.counts import parameters

VTAB_CLASSES = (100, 102, 47, 102, 37, 10, 397, 2, 10, 45, 5, 8, 6, 6, 4, 16, 16, 18, 9)  # the 19 tasks' heads
# NOAH's 19 published subnets (experiments/NOAH/subnet/VTAB): widths of prompts, LoRA and adapters, each summed over 12 blocks,
# in all of which the three are present
NOAH_SUBNETS = (
    *((69, 47, 74), (65, 83, 73), (46, 46, 66), (73, 73, 63), (96, 65, 54), (70, 85, 70), (46, 56, 46)),
    *((82, 59, 50), (96, 61, 83), (50, 77, 53), (72, 69, 69)),
    *((68, 65, 79), (68, 69, 52), (65, 77, 63), (50, 82, 64), (68, 56, 66), (78, 64, 79), (74, 55, 37), (70, 51, 66)),
)
# Rank -> tasks of VTAB-1K. Derived: no other mix has the reported means; which task has which rank is not known here.
FACT_TT_TASKS = {4: 1, 8: 9, 16: 9}
FACT_TK_TASKS = {16: 6, 32: 13}


@dataclass(frozen=True)
class Architecture:
    """What the formulas need to know of a ViT."""

    width: int  # d
    depth: int
    hidden: int  # of an MLP
    patch: int  # pixels
    tokens: int  # patches and class token
    layer_scale: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Layer name -> (d2, d1) of every linear layer but the head."""
        d, h = self.width, self.hidden
        block = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (h, d), "mlp.fc2": (d, h)}
        return {f"blocks.{index}.{name}": shape for index in range(self.depth) for name, shape in block.items()}


VIT_B = Architecture(768, 12, 3072, 16, 197)  # ViT-B/16 at 224 pixels
VIT_S = Architecture(384, 12, 1536, 14, 10, layer_scale=True)  # the cpu profile's ViT-S/14 at 42 pixels


@dataclass(frozen=True)
class Size:
    """Parameters that are trained, that a task's adapter stores, and that the model for inference has beyond the backbone."""

    trained: int
    stored: int
    merged: int


def formula(method: str, vit: Architecture = VIT_B, **options) -> Size:
    """Return the size of a method by its formula; options and defaults as in `METHODS`.

    For "glora" and "noah", `config` is the subnet that is stored: without it the whole supernet.
    """
    config = options.pop("config", None)
    trained = FORMULAS[method](vit, **options)
    if method == "glora" and config is not None:
        return Size(trained, Space(vit.shapes, (options.get("rank", 8),)).parameters(config, vit.shapes), 0)
    if method == "noah" and config is not None:
        trained = noah_subnet(
            vit, *(sum(config[part]) for part in ("prompt", "lora", "adapter")), sum(map(bool, config["adapter"]))
        )
    return Size(trained, trained, trained if method in NOT_FUSABLE else 0)


def counted(net: nn.Module, backbone: int) -> Size:
    """Return the same of a model that a method adapted; `backbone` is the number of parameters before, the head's included."""
    trained = trainable_parameters(net)
    stored = trained
    if isinstance(net, AdaptedModel):
        stored = sum(tensor.numel() for name in net.layer_names for tensor in net.layer(name).stored().values())
    try:
        merged = sum(p.numel() for p in fuse(net).parameters()) - backbone
    except NotFusable:
        merged = stored
    return Size(trained, stored, merged)


def _full(vit: Architecture) -> int:
    d = vit.width
    linears = sum(d2 * d1 + d2 for d2, d1 in vit.shapes.values())
    norms = vit.depth * (6 if vit.layer_scale else 4) * d + 2 * d
    return linears + norms + (3 * vit.patch**2 + 1) * d + (vit.tokens + 1) * d  # patch embedding; class token and positions


def _bitfit(vit: Architecture) -> int:
    return sum(d2 for d2, _ in vit.shapes.values()) + (2 * vit.depth + 2) * vit.width


def _lora(vit: Architecture, rank: int = 8, placement: str = "all") -> int:
    if placement == "all":
        return sum(rank * (d2 + d1) for d2, d1 in vit.shapes.values())
    if placement == "conv":
        return rank * (vit.width + 3 * vit.patch**2)  # the patch embedding
    return vit.depth * rank * vit.width * 4  # d + 3 d shared, twice d + d apart: the same


def _bottlenecks(vit: Architecture, number: int, width: int, bias: bool = True) -> int:
    return number * (2 * vit.width * width + bias * (width + vit.width))


def _matrices(vit: Architecture) -> int:
    """The number of d x d matrices that FacT sees in the model: 144 in ViT-B."""
    return vit.depth * (4 + 2 * vit.hidden // vit.width)


def _repadapter(vit: Architecture, width: int = 8, groups: int = 2, bias: bool = True) -> int:
    d = vit.width
    return 2 * vit.depth * (d * width + d * width // groups + bias * (width + d))


def _ssf(vit: Architecture) -> int:
    return 2 * (sum(d2 for d2, _ in vit.shapes.values()) + (2 * vit.depth + 2) * vit.width)


def _glora(vit: Architecture, rank: int = 8) -> int:
    return sum(2 * rank * (d2 + d1) + rank * (d1 + 1) + 2 * d2 for d2, d1 in vit.shapes.values())


def noah_subnet(vit: Architecture, prompts: int, ranks: int, widths: int, adapters: int) -> int:
    """Return the size of a subnet of NOAH: widths of each part summed over the blocks, and how many blocks have an adapter."""
    return prompts * vit.width + ranks * 4 * vit.width + widths * (2 * vit.width + 1) + adapters * vit.width


def _superlora(vit: Architecture, preset: Callable, **options) -> int:
    shapes = {name: shape for name, shape in vit.shapes.items() if name.endswith("attn.qkv")}
    return parameters(preset(**options), queries_and_values(shapes), shapes)


FORMULAS = {
    "linear": lambda vit: 0,
    "full": _full,
    "bitfit": _bitfit,
    "lora": _lora,
    "vpt_shallow": lambda vit, tokens=50: tokens * vit.width,
    "vpt_deep": lambda vit, tokens=50: vit.depth * tokens * vit.width,
    "adapter": lambda vit, width=8, placement="mlp": _bottlenecks(vit, vit.depth * (1 + (placement == "houlsby")), width),
    "adaptformer": lambda vit, width=8, bias=True: _bottlenecks(vit, vit.depth, width, bias),
    "noah": lambda vit, widths=(1, 5, 10): noah_subnet(vit, *(vit.depth * max(widths),) * 3, vit.depth),
    "fact_tt": lambda vit, rank=16: 2 * vit.width * rank + _matrices(vit) * rank**2,
    "fact_tk": lambda vit, rank=16: 2 * vit.width * rank + _matrices(vit) * rank + rank**3,
    "ssf": _ssf,
    "repadapter": _repadapter,
    "glora": _glora,
    **{f"superlora_{name}": partial(_superlora, preset=preset) for name, preset in PRESETS.items()},
}
NOT_FUSABLE = {"vpt_shallow", "vpt_deep", "adapter", "adaptformer", "noah"}


def vit_b_shapes() -> dict[str, tuple[int, int]]:
    """Return layer name -> (d2, d1) of the 48 linear layers of ViT-B/16 with a fused qkv."""
    return VIT_B.shapes


def mean_subnet(*ranks: int) -> float:
    """Return the exact mean size of a uniformly random subnet of ViT-B with these ranks to choose from, in parameters."""
    shapes = vit_b_shapes()
    sizes = {}
    for name, shape in shapes.items():
        if shape not in sizes:
            space = Space([name], ranks)
            counts = [space.parameters({name: choice}, {name: shape}) for choice in space.choices()]
            sizes[shape] = sum(counts) / len(counts)
    return sum(sizes[shape] for shape in shapes.values())


def supernet_size(rank: int) -> int:
    """Return how many parameters a supernet on ViT-B trains, head excluded."""
    return _glora(VIT_B, rank)


def mean_head() -> float:
    """Return the mean number of parameters of ViT-B's head over the 19 tasks of VTAB-1K."""
    return (VIT_B.width + 1) * sum(VTAB_CLASSES) / len(VTAB_CLASSES)


def mean_noah() -> float:
    """Return the mean size of NOAH's 19 published subnets, a task each; by groups, as Table 1's caption has it, 0.36 M too."""
    return sum(noah_subnet(VIT_B, *sums, VIT_B.depth) for sums in NOAH_SUBNETS) / len(NOAH_SUBNETS)


def mean_fact(method: str, tasks: dict[int, int]) -> float:
    """Return the mean size of "fact_tt" or "fact_tk"; `tasks` maps a rank to the number of tasks that have it."""
    return sum(number * formula(method, rank=rank).trained for rank, number in tasks.items()) / sum(tasks.values())


def table() -> pd.DataFrame:
    """Return the reported sizes on ViT-B/16 beside ours, and the convention under which they match.

    Columns: method; printed (Table 1, or another place that the convention names, in M); reported and ours (parameters, rounded
    means); convention. For GLoRA what is printed matches none of ours exactly: the searched subnets are not published.
    """

    def size(method: str, **options) -> int:
        return formula(method, **options).trained

    rows = [
        ("linear", "0", 0, size("linear"), "head excluded"),
        ("full", "85.8", 85_798_656, size("full"), "head excluded"),
        ("bitfit", "0.10", 102_912, size("bitfit"), "all biases, norms and patch embedding included"),
        ("vpt_shallow", "0.06", 768, size("vpt_shallow", tokens=1), "768 p, here p = 1; p of 78 gives 0.06"),
        ("vpt_deep", "0.53", 9_216, size("vpt_deep", tokens=1), "9,216 p, here p = 1; mean p of 57.5 gives 0.53"),
        ("vpt_deep", "0.55", 552_960, size("vpt_deep", tokens=60), "Table 4: p = 60"),
        ("adapter", "0.16", 156_768, size("adapter"), "width 8, biases, behind the MLP only"),
        ("adapter", "", 313_536, size("adapter", placement="houlsby"), "width 8, biases, two a block (Houlsby)"),
        ("adaptformer", "0.16", 156_768, size("adaptformer"), "width 8, biases"),
        ("adaptformer", "", 147_456, size("adaptformer", bias=False), "width 8, no biases"),
        ("lora", "0.29", 294_912, size("lora", placement="qv"), "rank 8, q and v"),
        ("lora", "0.29", 294_912, size("lora", placement="qkv"), "rank 8, one down-projection for q, k, v (NOAH's code)"),
        ("noah", "0.36", 360_134, round(mean_noah()), "mean of the 19 published subnets"),
        ("fact_tt", "", 39_734, round(mean_fact("fact_tt", FACT_TT_TASKS)), "mean over 19 tasks, ranks 4, 8, 16"),
        ("fact_tk", "0.07", 68_985, round(mean_fact("fact_tk", FACT_TK_TASKS)), "mean over 19 tasks, ranks 16, 32"),
        ("ssf", "", 205_824, size("ssf"), "head excluded"),
        ("ssf", "0.24", 243_869, round(size("ssf") + mean_head()), "mean head included"),
        ("repadapter", "", 239_808, size("repadapter"), "width 8, 2 groups, biases"),
        ("repadapter", "0.22", 221_184, size("repadapter", bias=False), "width 8, 2 groups, biases left out"),
        ("superlora_dense", "", 14_155_776, size("superlora_dense"), "q and v: all their numbers"),
        ("superlora_lora", "4 x 10^4", 36_864, size("superlora_lora", r=1), "SuperLoRA Sec. 4.1: rank 1 on q and v"),
        ("superlora_loha", "", 73_728, size("superlora_loha", r=1), "q and v, rank 1"),
        ("superlora_lokr", "", 15_360, size("superlora_lokr", r=1), "q and v, 24 x 24 by rank 1 of 32 x 32"),
        ("superlora_lonkr", "", 246, size("superlora_lonkr", r=1), "q and v at once, 8 x 8 twice by rank 1 of 54 x 64"),
        ("superlora_lotr", "", 1_560, size("superlora_lotr", r=1), "q and v at once, rank 1"),
        ("superlora_lorta", "", 729, size("superlora_lorta", r=1), "q and v at once, 216 x 256 x 256, rank 1 with a core"),
    ]
    for rank, printed, trained, mean in (
        (8, ".86", 3_041_664, 880_312),
        (4, ".44", 1_603_776, 499_320),
        (2, ".29", 884_832, 308_824),
    ):
        rows.append(("glora", printed, trained, supernet_size(rank), f"trained: the supernet of rank {rank}"))
        rows.append(("glora", printed, mean, round(mean_subnet(rank)), f"stored: mean random subnet of rank {rank}"))
    return pd.DataFrame(rows, columns=["method", "printed", "reported", "ours", "convention"])
