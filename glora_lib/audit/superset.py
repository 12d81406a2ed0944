"""Which methods are points of GLoRA's space: each trained at random on a small ViT, and compared with a point of the space.

A method on linear layers is one if a GLoRA layer has exactly its function; here on a fused qkv, in the tests on every layer. A
method that is not leaves a block without norms and activation no longer affine on one token, which GLoRA keeps affine.
"""

import random
from functools import cache

import pandas as pd
import torch
from torch import Tensor, nn

from glora_lib.audit.judge import statement
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Choice, Space
from glora_lib.methods import METHODS

LARGEST_RANK = 8  # of LoRA in the paper's search spaces, Sec. 3.1
SAME, OTHER = 1e-9, 1e-4  # residuals below are rounding (float64), above are another function
OPTIONS = {"vpt_shallow": {"tokens": 3}, "vpt_deep": {"tokens": 3}, "adaptformer": {"scale": 1.0}, "lora": {"placement": "qv"}}
QKV = "blocks.1.attn.qkv"
ON_LINEAR_LAYERS = ("lora", "ssf", "fact_tt", "fact_tk", "repadapter", "bitfit")
OTHERS = ("vpt_shallow", "vpt_deep", "adapter", "adaptformer", "noah")
NAMED = (*ON_LINEAR_LAYERS, *OTHERS)  # what Sec. 2.1 lists, and what Table 1 compares beside it


def small_vit(depth: int | None = None) -> nn.Module:
    """Return a small timm ViT in float64 with random weights, the same one every time."""
    import timm  # here: importing it takes a second, and few readers of the audit need it

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {} if depth is None else {"depth": depth}
        return timm.create_model("test_vit", num_classes=3, img_size=32, **options).eval().double()


@torch.no_grad()
def trained(method: str, model: nn.Module, by: float = 0.1, **options) -> nn.Module:
    """Adapt a model and move all that the method trains by random amounts, as training would; return the ViT inside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = METHODS[method](model, **OPTIONS.get(method, {}) | options)
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, dtype=parameter.dtype))
    if isinstance(net, AdaptedModel) and method == "glora":
        net.use(Space(net.layer_names, (8,)).sample(random.Random(0)))
    return net.eval() if hasattr(net, "blocks") else net.model.eval()


@torch.no_grad()
def point(layer: nn.Linear, **tensors: Tensor | tuple[Tensor, Tensor]) -> GLoRALinear:
    """Return a GLoRA layer whose support tensors have these values: a vector, or the two factors of LoRA."""
    ranks = {name: value[0].shape[1] for name, value in tensors.items() if isinstance(value, tuple)}
    found = GLoRALinear(layer, max([1, *ranks.values()]))
    for name, value in tensors.items():
        if name in ranks:
            getattr(found, f"{name}d")[:, : ranks[name]] = value[0]
            getattr(found, f"{name}u")[: ranks[name]] = value[1]
        elif name in "DE":
            getattr(found, name).copy_(value)
        else:
            getattr(found, f"{name}d")[:, 0] = value
    return found.use(Choice(**{name: f"lora{ranks[name]}" if name in ranks else "vector" for name in tensors}))


def as_point(method: str, theirs: nn.Module, layer: nn.Linear) -> GLoRALinear:
    """Return the point of GLoRA's space that should have the function of what a method made of `layer`, block 1's qkv."""
    if method == "lora":
        rows = theirs.up.shape[1]
        down = torch.zeros(3 * rows, 2 * theirs.up.shape[2], dtype=torch.float64)
        down[:rows, : down.shape[1] // 2], down[2 * rows :, down.shape[1] // 2 :] = theirs.up
        return point(layer, B=(down, theirs.down.flatten(0, 1)))
    if method == "ssf":
        return point(layer, A=theirs.gamma - 1, D=theirs.gamma - 1, E=theirs.beta)
    if method in ("fact_tt", "fact_tk"):
        U, V, cores = theirs.factors.U, theirs.factors.V, theirs.cores()
        return point(layer, B=(theirs.scale * torch.cat([V.T @ core.T for core in cores[:, 0]]), U.T))
    if method == "repadapter":
        up = theirs.scale * theirs.dense_up()
        return point(layer, B=(layer.weight @ up, theirs.down), C=up @ theirs.down_bias + theirs.scale * theirs.up_bias)
    return point(layer, E=theirs.bias - layer.bias)  # BitFit


@torch.no_grad()
def layer_error(method: str) -> float:
    """Return the largest difference between a method's qkv layer in block 1 and its point of GLoRA's space, fused."""
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    theirs, layer = trained(method, small_vit()).get_submodule(QKV), small_vit().get_submodule(QKV)
    return float((as_point(method, theirs, layer).fuse()(x) - theirs(x)).abs().max())


@torch.no_grad()
def rank_needed(method: str) -> int:
    """Return the rank of LoRA that a method takes as a point of GLoRA's space, at the size of Table 1; 0: B is not LoRA.

    LoRA stands in Table 1 with one down-projection for queries, keys and values. FacT's rank is chosen by task: Table 1 fits 16
    on some and 32 on the others.
    """
    as_printed = {"placement": "qkv"} if method == "lora" else {}
    theirs, layer = trained(method, small_vit(), **as_printed).get_submodule(QKV), small_vit().get_submodule(QKV)
    if method != "lora" and not as_point(method, theirs, layer).choice.B.startswith("lora"):
        return 0
    inputs = torch.eye(layer.in_features, dtype=torch.float64)
    return int(torch.linalg.matrix_rank(theirs(inputs) - theirs(0 * inputs) - inputs @ layer.weight.T))


@torch.no_grad()
def affine_residual(method: str) -> float:
    """Return the largest error, relative to the outputs' deviation, of the best affine fit to an adapted block on one token.

    Norms and activation are taken out of the block; on one token the softmax is 1, so that the pretrained block is affine.
    """
    shallow = method == "vpt_shallow"  # its prompts join in front of all blocks
    model = small_vit(depth=1 if shallow else None)
    for block in model.blocks:
        block.norm1, block.norm2, block.mlp.act = nn.Identity(), nn.Identity(), nn.Identity()
    blocks = trained(method, model, by=0.3).blocks
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = (blocks if shallow else blocks[0])(x[:, None])[:, 0]
    inputs = torch.cat([x, torch.ones(400, 1, dtype=torch.float64)], 1)
    return float((y - inputs @ torch.linalg.lstsq(inputs, y).solution).abs().max() / y.std())


@cache
def table() -> pd.DataFrame:
    """Return a row per method of NAMED, and GLoRA last: error (layer_error), residual (affine_residual), point, rank.

    `point` says whether the method is one, `rank` which rank of LoRA it takes (`rank_needed`; NaN elsewhere). A number between
    rounding and another function raises an ArithmeticError.
    """
    rows = [(method, layer_error(method), None) for method in ON_LINEAR_LAYERS]
    rows += [(method, None, affine_residual(method)) for method in (*OTHERS, "glora")]
    found = pd.DataFrame(rows, columns=["method", "error", "residual"]).set_index("method").astype(float)
    size = found.max(axis=1)
    if between := size.index[size.between(SAME, OTHER)].tolist():
        raise ArithmeticError(f"neither rounding nor another function: {', '.join(between)}; see {SAME} and {OTHER}")
    ranks = [rank_needed(method) if method in ON_LINEAR_LAYERS else float("nan") for method in found.index]
    return found.assign(point=size < SAME, rank=ranks)


def outside() -> list[str]:
    """Return the named methods that are no points of GLoRA's space."""
    found = table().loc[list(NAMED)]
    return found.index[~found["point"]].tolist()


def within(rank: int) -> list[str]:
    """Return the named methods that are points of the space whose LoRA has at most this rank."""
    found = table().loc[list(NAMED)]
    return found.index[found["point"] & (found["rank"] <= rank)].tolist()


def all_reduced() -> tuple[bool, str]:
    """Say whether every prior method that the paper names is a point of GLoRA's space."""
    inside, rest = len(NAMED) - len(outside()), table()["residual"]
    small = f"{len(within(LARGEST_RANK))} with the paper's largest rank of {LARGEST_RANK}"
    affine = f"the best affine fit misses VPT-Deep by {rest['vpt_deep']:.0e}, GLoRA with C by {rest['glora']:.0e}"
    found = f"{inside} of {len(NAMED)} are, on linear layers with any rank, {small}; not {', '.join(outside())}"
    return not outside(), f"{found}; {affine}"


def most_reduced() -> tuple[bool, str]:
    """Say whether most of the named methods are points of GLoRA's space."""
    found = f"{len(NAMED) - len(outside())} of {len(NAMED)} with any rank, {len(within(LARGEST_RANK))} with {LARGEST_RANK}"
    return 2 * len(outside()) < len(NAMED), found


def reduced(*methods: str) -> tuple[bool, str]:
    """Say whether the given methods are points of GLoRA's space, layer by layer."""
    rows = table().loc[list(methods)]
    return bool(rows["point"].all()), f"largest error of {len(rows)} methods {rows[['error', 'residual']].max().max():.0e}"


CHECKS = {
    "superset/all": statement(all_reduced),
    "superset/linear-methods": statement(lambda: reduced("lora", "ssf", "fact_tt", "fact_tk", "repadapter")),
    "objection/most-methods": statement(most_reduced),
}
