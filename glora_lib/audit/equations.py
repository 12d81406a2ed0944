"""Checks on live layers: Eq. 10 to 14 as the code reads them, fusion with and without a bias, and storage."""

import random
from functools import cache

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from glora_lib.audit.judge import count, exact, statement
from glora_lib.audit.superset import small_vit
from glora_lib.glora.adapt import adapt
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.model import fuse
from glora_lib.glora.space import Choice, Space, lora_rank
from glora_lib.training.head import head_of

EXACT = 1e-12  # float64
FULL = Choice("lora2", "lora2", "lora2", "vector", "vector")


def random_layer(d2: int = 5, d1: int = 4, rank: int = 2, bias: bool = True) -> GLoRALinear:
    """Return a GLoRA layer in float64 whose every stored number is random, the same one every time."""
    generator = torch.Generator().manual_seed(0)
    layer = GLoRALinear(nn.Linear(d1, d2, bias=bias).double(), rank)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


@torch.no_grad()
def written_out(layer: GLoRALinear, x: torch.Tensor) -> torch.Tensor:
    """Return Eq. 10 for the layer's choice, term by term, as the authors' code reads it; no code of the layer is used."""
    W0, b0, c = layer.W0, layer.b0, layer.choice

    def form(name: str, columns: int) -> torch.Tensor:
        down, up, chosen = getattr(layer, f"{name}d"), getattr(layer, f"{name}u"), getattr(c, name)
        if rank := lora_rank(chosen):
            return down[:, :rank] @ up[:rank]
        value = {"none": torch.zeros(1, 1), "scalar": down[0, 0].reshape(1, 1), "vector": down[:, 0:1]}[chosen]
        return value.double().expand(down.shape[0], columns)

    def shift(name: str) -> torch.Tensor:
        stored = getattr(layer, name)
        return {"none": torch.zeros_like(stored), "scalar": stored[0].expand_as(stored), "vector": stored}[getattr(c, name)]

    A, B, C = form("A", W0.shape[1]), form("B", W0.shape[1]), form("C", 1)
    return x @ (W0 + W0 * A + B).T + (W0 @ C)[:, 0] + shift("D") * b0 + shift("E") + b0


@cache
@torch.no_grad()
def largest_errors() -> tuple[float, float, int]:
    """Return the largest errors of the layer and of its fused form against Eq. 10 written out, and the number of choices."""
    layer, x = random_layer(), torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = [[], []]
    choices = Space(["layer"], (2, 1)).choices()
    for choice in choices:
        wanted = written_out(layer.use(choice), x)
        errors[0].append((layer(x) - wanted).abs().max())
        errors[1].append((layer.fuse()(x) - wanted).abs().max())
    return float(max(errors[0])), float(max(errors[1])), len(choices)


def code_reading() -> tuple[bool, str]:
    """Say whether the layer computes Eq. 10 in the code's reading on every choice."""
    error, _, choices = largest_errors()
    return error < EXACT, f"largest error {error:.0e} over {choices} choices"


def fuses_exactly() -> tuple[bool, str]:
    """Say whether W_uni x + b_uni (Eq. 12 to 14 in the code's reading) is the same function on every choice."""
    _, error, choices = largest_errors()
    return error < EXACT, f"largest error {error:.0e} over {choices} choices"


def none_is_original() -> tuple[bool, str]:
    """Say whether a layer without support tensors is exactly the pretrained one."""
    layer, x = random_layer().use(Choice()), torch.randn(3, 4, dtype=torch.float64)
    same = torch.equal(layer(x), F.linear(x, layer.W0, layer.b0))
    return same, "the same numbers" if same else "other numbers"


def extra_parameters(bias: bool) -> int:
    """Return how many parameters a fused layer (4 -> 5) has beyond the pretrained one when every support tensor is in use."""
    layer = random_layer(bias=bias)
    plain = layer.W0.numel() + (layer.b0.numel() if bias else 0)
    return sum(p.numel() for p in layer.use(FULL).fuse().parameters()) - plain


@cache
def swin_without_bias() -> dict[str, int]:
    """Return the linear layers of Swin-B that have no bias, name -> outputs, heads excluded."""
    import timm  # here: it takes a second, and only this check needs it

    with torch.device("meta"):
        model = timm.create_model("swin_base_patch4_window7_224")
    heads = head_of(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and name not in heads}
    return {name: layer.out_features for name, layer in layers.items() if layer.bias is None}


LLAMA_LAYERS, LLAMA_WIDTH, ATTENTION = 32, 4096, 4  # LLaMA-7B: q, k, v, o of 4096 x 4096, none with a bias


def llama_biases() -> int:
    """Return how many parameters the attention layers of LLaMA-7B gain with their biases."""
    return LLAMA_LAYERS * ATTENTION * LLAMA_WIDTH


def biases_appear(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold "no additional weights" against a layer without bias; add where the paper adapts such layers."""
    extra, swin = extra_parameters(bias=False), swin_without_bias()
    there = f"{sum(swin.values()):,} in {len(swin)} layers of Swin-B, {llama_biases():,} in LLaMA-7B's attention"
    return f"{extra} extra parameters (4 -> 5); {there}", exact(int(claim["reported"]), extra)


def entangled() -> tuple[bool, str]:
    """Say whether the scalar and vector forms of A, B and C need no storage beyond that of LoRA, on a live layer."""
    layer = random_layer()
    stored = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    d2, d1, r = layer.out_features, layer.in_features, layer.rank
    lora = 2 * r * (d2 + d1) + r * (d1 + 1) + 2 * d2
    return stored == lora, f"{stored - lora} numbers beyond LoRA, D and E"


def inherits_weights() -> tuple[bool, str]:
    """Say whether a subnet uses the supernet's own tensors, so that nothing is trained after the search."""
    layer = random_layer().use(FULL)
    owned = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    shared = all(part.untyped_storage().data_ptr() in owned for part in layer.stored().values())
    return shared, "a subnet is a view of the supernet" if shared else "a subnet has tensors of its own"


@torch.no_grad()
def convolution_too() -> tuple[bool, str]:
    """Say whether GLoRA is for linear layers only: adapt a convolution as the linear layer of its patches, and fuse it."""
    generator = torch.Generator().manual_seed(2)
    conv = nn.Conv2d(2, 5, 3, padding=1).double()
    linear = nn.Linear(18, 5).double()
    linear.weight.copy_(conv.weight.flatten(1))
    linear.bias.copy_(conv.bias)
    layer = GLoRALinear(linear, 2).use(FULL)
    for parameter in layer.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * parameter.requires_grad)
    images = torch.randn(2, 2, 6, 6, generator=generator, dtype=torch.float64)
    patches = F.unfold(images, 3, padding=1).mT
    fused = layer.fuse()
    error = (
        (F.conv2d(images, fused.weight.view_as(conv.weight), fused.bias, padding=1).flatten(2).mT - layer(patches)).abs().max()
    )
    return bool(error > EXACT), f"a 3 x 3 convolution fuses with an error of {error:.0e}"


def rank_of_change(method: str) -> int:
    """Return the rank of the change that SSF, LoRA or RepAdapter makes to the weight of a layer, 8 inputs and 10 outputs."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    W0 = draw(10, 8)
    if method == "ssf":
        change = draw(10, 1) * W0
    elif method == "lora":
        change = draw(10, 2) @ draw(2, 8)
    else:  # Eq. 9: W0 Wu Wd
        change = W0 @ draw(8, 2) @ draw(2, 8)
    return int(torch.linalg.matrix_rank(change))


def no_weight_change() -> tuple[bool, str]:
    """Say whether SSF and RepAdapter leave the weight alone once fused."""
    ranks = {method: rank_of_change(method) for method in ("ssf", "repadapter")}
    return not any(
        ranks.values()
    ), f"their fused changes of a weight (10 x 8) have rank {ranks['ssf']} and {ranks['repadapter']}"


def cannot_scale_and_shift() -> tuple[bool, str]:
    """Say whether a low-rank change of the weight leaves out scales and shifts: a scale has full rank, a shift is no weight."""
    low, scaled = rank_of_change("lora"), rank_of_change("ssf")
    return (
        scaled > low,
        f"scaling the outputs of a layer (10 x 8) changes it by rank {scaled}, LoRA of rank {low} by {low}; no bias",
    )


@torch.no_grad()
def loads_as_it_was() -> tuple[bool, str]:
    """Say whether the weights of a fused ViT load into the plain model, by names and shapes, and give the same features."""
    net, generator, plain = adapt(small_vit(), rank=2), torch.Generator().manual_seed(5), small_vit()
    for parameter in net.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(0.1 * noise if parameter.requires_grad else 0)
    net.use(Space(net.layer_names, (2,)).sample(random.Random(0))).eval()
    images = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    adapted = net.model.forward_features(images)  # its untrained head answers zero
    plain.load_state_dict(fuse(net).state_dict())  # raises for a name or a shape that differs
    error = float((plain.forward_features(images) - adapted).abs().max())
    return error < 1e-9, f"every layer has a bias: loads by name and shape, features differ by {error:.0e}; see fusion/no-bias"


@torch.no_grad()
def eq9_expands() -> tuple[bool, str]:
    """Say whether both lines of Eq. 9 (RepAdapter) are the same function."""
    g = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    x, W0, Wu, Wd, bd, bu, b0 = draw(8, 3), draw(5, 8), draw(8, 2), draw(2, 8), draw(2, 1), draw(8, 1), draw(5, 1)
    short = W0 @ (x + Wu @ (Wd @ x + bd) + bu) + b0
    error = (short - ((W0 + W0 @ Wu @ Wd) @ x + W0 @ Wu @ bd + W0 @ bu + b0)).abs().max()
    return bool(error < EXACT), f"largest difference {error:.0e}"


CHECKS = {
    "equation/10-code": statement(code_reading),
    "equation/12": statement(fuses_exactly),
    "equation/9": statement(eq9_expands),
    "equation/none": statement(none_is_original),
    "equation/entanglement": statement(entangled),
    "limits/ssf-repadapter": statement(no_weight_change),
    "fusion/bias": count(lambda: extra_parameters(True), "{} extra parameters (4 -> 5)"),
    "fusion/no-bias": biases_appear,
    "fusion/no-retraining-v1": statement(inherits_weights),
    "limits/lora-fact": statement(cannot_scale_and_shift),
    "fusion/loads": statement(loads_as_it_was),
    "objection/linear-only": statement(convolution_too),
    "objection/all-linear": statement(fuses_exactly),
}
