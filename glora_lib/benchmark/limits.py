"""What the processor allows: the rate of matrix products, the operations of a step, and where its time goes."""

import os
import time

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler is talkative

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from glora_lib.benchmark.setting import Setting
from glora_lib.benchmark.steps import Visit, named
from glora_lib.measures.inference import flops

KINDS = {  # what an operator of torch counts as; the first that fits
    "matrix products": ("mm", "bmm", "baddbmm", "convolution"),
    "attention, fused": ("scaled_dot_product",),
    "GELU": ("gelu",),
    "softmax": ("softmax",),
    "layer norm": ("layer_norm",),
    "optimiser": ("adam",),
    "copies and casts": ("copy_", "clone", "_to_copy", "cat"),
    "sums and dots": ("sum", "vecdot", "dot"),
}


def product_rates(rows: int, width: int, repeats: int = 9) -> dict[str, float]:
    """Return the operations a second of (rows, width) @ (width, 4 width) by dtype, the best of `repeats`: the machine's limit.

    bfloat16 is tried on 256 rows first: a processor without it is a hundred times slower and would take minutes.
    """
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        rates[str(dtype).removeprefix("torch.")] = _rate(min(rows, 256), width, dtype, 3)
    return {
        dtype: _rate(rows, width, getattr(torch, dtype), repeats) if rate > rates["float32"] / 4 else rate
        for dtype, rate in rates.items()
    }


def _rate(rows: int, width: int, dtype: torch.dtype, repeats: int) -> float:
    a, b = torch.randn(rows, width).to(dtype), torch.randn(4 * width, width).to(dtype)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ b.T
        seconds.append(time.perf_counter() - start)
    return 2 * rows * width * 4 * width / min(seconds[1:])


def operations(visit: Visit) -> int:
    """Return the operations of a step's matrix products, a multiply-add counted twice, its backward pass included."""
    with FlopCounterMode(display=False) as counter:
        visit(1)
    return counter.get_total_flops()


def step_operations(setting: Setting) -> dict[str, float]:
    """Return the operations of single steps: of the supernet the mean of two configurations, ours and literal.

    "forward" is a forward pass of the base. In the steps the products of attention escape the counter, in fused kernels.
    """
    counts = {"forward": float(setting.batch * flops(setting.backbone(), setting.image_size))}
    for name in ("supernet", "supernet, literal", "fixed", "B alone", "LoRA", "full fine-tuning"):
        visit = named(name, setting)
        counts[name] = float(np.mean([operations(lambda _, r=r, v=visit: v(r)) for r in range(1, 3 if "net" in name else 2)]))
    return counts


def beside_limit(history: dict, dtype: str) -> pd.DataFrame:
    """Return what the products of each step take at the measured rate, of a benchmark record's history in a number format.

    Columns: 10^9 operations, times a forward pass, limit (s), measured (s), and the share of it that the limit explains.
    """
    needed, times = pd.Series(history["operations"]), history["steps"][dtype]
    table = pd.DataFrame({"10^9 operations": needed / 1e9, "times a forward pass": needed / needed["forward"]})
    table["limit (s)"] = needed / history["rates"][dtype]
    table["measured (s)"] = [np.median(times.get(name, times["forward, base"])) for name in table.index]
    return table.assign(share=table["limit (s)"] / table["measured (s)"])


def by_kind(visit: Visit) -> dict[str, float]:
    """Return the seconds of one step by kind of operator, as torch's profiler sees them."""
    visit(1)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        visit(1)
    seconds = dict.fromkeys([*KINDS, "other elementwise and overhead"], 0.0)
    for event in seen.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), list(seconds)[-1])
        seconds[kind] += event.self_cpu_time_total / 1e6
    return seconds


def profiles(setting: Setting) -> dict[str, dict[str, float]]:
    """Return `by_kind` of the supernet's step, ours and literal."""
    return {name: by_kind(named(name, setting)) for name in ("supernet", "supernet, literal")}
