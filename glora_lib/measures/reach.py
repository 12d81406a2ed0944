"""What SuperLoRA's units reach: rank and singular values of dW, and the rows of the paper's Table 1 on live tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd
import torch
from torch import Tensor, nn

from glora_lib.superlora import PRESETS, Part, SuperLoRA, SuperLoRAModel
from glora_lib.superlora.counts import parameters
from glora_lib.superlora.projection import Fastfood

TABLE = {  # Table 1, and LoHa, which the text names beside its rows: the setting as printed there, and dW written out
    "dense": ("F = I, weight-wise, K = 1, C = I, M = 1", "free"),
    "lora": ("F = I, weight-wise, K = 1, C = I, M = 2", "A B^T"),
    "loha": ("none: K = 1, M = 2 with rank r x r has its functions", "(W1a W1b) * (W2a W2b)"),
    "lokr": ("F = I, weight-wise, K = 2, C = I, M = 2", "W1 kron (W2a W2b)"),
    "lonkr": ("F = I, group-wise, K > 2, C = I, M = 2", "W1 kron W2 kron (W3a W3b)"),
    "lotr": ("F = I, group-wise, G = 1, M > 2", "U C_i V"),
    "lorta": ("F = I, group-wise, K = 1, M > 2", "C x_1 A_1 x_2 A_2 x_3 A_3"),
}


def linear_layers(shapes: Mapping[str, tuple[int, int]]) -> nn.Module:
    """Return a model of linear layers of these names and weight shapes (outputs, inputs), all weights zero, in float64."""
    model = nn.Module()
    for name, (rows, columns) in shapes.items():
        model.add_module(name, nn.Linear(columns, rows, bias=False, dtype=torch.float64))
        nn.init.zeros_(model.get_submodule(name).weight)
    return model


@torch.no_grad()
def example(setting: SuperLoRA, shapes: Mapping[str, tuple[int, int]], seed: int = 0) -> SuperLoRAModel:
    """Return linear layers of these shapes, all adapted by a setting, with normal numbers in its groups."""
    net = setting.adapt(linear_layers(shapes), [Part(name) for name in shapes], train=())
    generator = torch.Generator().manual_seed(seed)
    for p in net.groups.parameters():
        p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return net.requires_grad_(False)


def reach(settings: Mapping[str, SuperLoRA], shapes: Mapping[str, tuple[int, int]]) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Return what settings reach on weights of these shapes: a row each, and the singular values of the first weight's dW.

    Columns: setting, parameters, rank (of the first dW, singular values above 1e-9 of the largest) and half (how many of them
    hold half of the squared norm).
    """
    rows, spectra = [], {}
    for name, setting in settings.items():
        values = torch.linalg.svdvals(example(setting, shapes).changes()[0])
        energy = values.square().cumsum(0) / values.square().sum()
        rank, half = int((values > 1e-9 * values[0]).sum()), int((energy < 0.5).sum()) + 1
        rows.append((name, parameters(setting, [Part(name) for name in shapes], shapes), rank, half))
        spectra[name] = values
    return pd.DataFrame(rows, columns=["setting", "parameters", "rank of dW", "half its norm in"]), spectra


@torch.no_grad()
def taxonomy(shapes: Mapping[str, tuple[int, int]], **options: dict) -> pd.DataFrame:
    """Return the rows of Table 1 by preset: printed setting, fields that differ from LoRA's, dW, and the largest error.

    The error is of a live model's dW against the formula in the column before, written out with einsum. `options` gives
    presets other arguments than their own.
    """
    rows = []
    for name, preset in PRESETS.items():
        setting = preset(**options.get(name, {}))
        net = example(setting, shapes)
        found = torch.stack(net.changes()) / setting.scale
        changed = {k: v for k, v in asdict(setting).items() if v != asdict(SuperLoRA())[k] and k not in ("r", "scale")}
        said, formula = TABLE[name]
        wanted = torch.cat([written_out(name, group.unit).reshape(-1) for group in net.groups])[: found.numel()]
        error = float((found.reshape(-1) - wanted).abs().max())
        fields = ", ".join(f"{k}={v!r}" for k, v in changed.items()) or "none"
        rows.append((name, said, fields, formula, parameters(setting, net.grouping.parts, shapes), error))
    return pd.DataFrame(rows, columns=["preset", "Table 1", "fields unlike lora", "dW", "parameters", "largest error"])


def written_out(name: str, unit: nn.Module) -> Tensor:
    """Return a unit's tensor from its parameters by its formula in `TABLE`, without the unit's own code."""
    p = list(unit.parameters())
    if name == "dense":
        return p[0]
    if name == "lora":
        return torch.einsum("ar,br->ab", *p)
    if name == "loha":
        return torch.einsum("ar,br,as,bs->ab", *p)
    if name in ("lokr", "lonkr"):
        *left, A, B = p
        whole = torch.einsum("ar,br->ab", A, B)
        for factor in reversed(left):
            rows, columns = factor.shape[0] * whole.shape[0], factor.shape[1] * whole.shape[1]
            whole = torch.einsum("ij,kl->ikjl", factor, whole).reshape(rows, columns)
        return whole
    core, *factors = sorted(p, key=lambda tensor: -tensor.ndim)
    if name == "lotr":
        return torch.einsum("nxy,ax,by->nab", core, *factors)
    return torch.einsum("xyz,ax,by,cz->abc", core, *factors)


def projection_matrix(m: int, n: int, seed: int = 0) -> Tensor:
    """Return Fastfood as a matrix, (m, N): what it makes of each of its m numbers alone."""
    F = Fastfood(m, n, seed, torch.zeros(1, dtype=torch.float64))
    return torch.stack([F(row) for row in torch.eye(m, dtype=torch.float64)])


def norms(ratios: Sequence[float], n: int = 256, draws: int = 200) -> pd.DataFrame:
    """Return by ratio how Fastfood changes a vector's squared norm: mean and sd over seeds of that behind it by that before."""
    rows = []
    for ratio in ratios:
        m = max(1, round(ratio * n))
        v = torch.randn(m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        gains = [float(Fastfood(m, n, seed, v)(v).square().sum() / v.square().sum()) for seed in range(draws)]
        table = pd.Series(gains)
        rows.append((ratio, m, n, table.mean(), table.std(), draws))
    return pd.DataFrame(rows, columns=["rho", "m", "N", "squared norm out / in", "sd", "n seeds"])
