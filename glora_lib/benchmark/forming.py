"""What forming dW costs: all queries and values of ViT-B, 14.2 million numbers, by every kind of SuperLoRA's units.

python -m glora_lib.benchmark.forming            seconds and memory of each, in a fresh process each; writes a record
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import pandas as pd
import torch
from torch import nn

from glora_lib.runs.paths import ROOT
from glora_lib.runs.provenance import line, peak_memory, provenance
from glora_lib.runs.record import Record
from glora_lib.superlora import SuperLoRA, SuperLoRAModel, queries_and_values
from glora_lib.training.threads import share

EXPERIMENT, TASK, METHOD = "benchmark_forming", "vit_b_qv", "all"
FASTFOOD = {"groups": 1, "projection": "fastfood", "seed": 0}
SETTINGS: dict[str, Callable[[], SuperLoRA]] = {
    "dense": SuperLoRA.dense,
    "LoRA r=8": lambda: SuperLoRA.lora(r=8),
    "2D fold G=1 r=8": lambda: SuperLoRA.lora(r=8, groups=1, shape="fold"),
    "3D r=8": lambda: SuperLoRA.lorta(r=8),
    "5D r=4": lambda: SuperLoRA.lorta(r=4, order=5),
    "LoKr r=4": lambda: SuperLoRA.lokr(r=4),
    "LoTR r=8": lambda: SuperLoRA.lotr(r=8),
    "shuffled": lambda: SuperLoRA.dense(groups=1, projection="shuffle", seed=0),
    "Fastfood rho=1": lambda: SuperLoRA.dense(**FASTFOOD),
    "Fastfood rho=0.01": lambda: SuperLoRA.dense(**FASTFOOD, ratio=0.01),
}


def adapted(name: str, width: int = 768, depth: int = 12) -> SuperLoRAModel:
    """Return the fused qkv layers of a ViT of this width and depth, their queries and values adapted by a setting."""
    model = nn.Module()
    for number in range(depth):
        block = nn.Module()
        block.qkv = nn.Linear(width, 3 * width, bias=False)
        model.add_module(str(number), block)
    shapes = {f"{number}.qkv": (3 * width, width) for number in range(depth)}
    return SETTINGS[name]().adapt(model, queries_and_values(shapes), train=())


def one(name: str, rounds: int = 5, width: int = 768, depth: int = 12) -> dict:
    """Return what a setting costs in this process: seconds of making it, and by round of forming and of forming with gradients.

    `memory_mb` is how far the process's peak rose from the model without changes to the last round.
    """
    start = time.perf_counter()
    net = adapted(name, width, depth)
    seconds = {"making": time.perf_counter() - start, "forming": [], "with_gradients": []}
    before = peak_memory()
    for _ in range(rounds + 1):  # the first is not counted
        start = time.perf_counter()
        with torch.no_grad():
            net.changes()
        middle = time.perf_counter()
        torch.cat([change.flatten() for change in net.changes()]).sum().backward()
        seconds["forming"].append(middle - start)
        seconds["with_gradients"].append(time.perf_counter() - middle)
    parameters = sum(p.numel() for p in net.groups.parameters())
    counted = {name: value[1:] if isinstance(value, list) else value for name, value in seconds.items()}
    return counted | {"memory_mb": peak_memory() - before, "parameters": parameters, "numbers": net.grouping.numbers}


def measure(rounds: int = 5) -> Record:
    """Return the record of all settings, each measured in a process of its own, not yet saved."""
    found = {}
    for name in SETTINGS:
        options = ["--one", name, "--rounds", str(rounds), "--threads", str(torch.get_num_threads())]
        command = [sys.executable, "-m", "glora_lib.benchmark.forming", *options]
        found[name] = json.loads(subprocess.check_output(command, text=True, cwd=ROOT).splitlines()[-1])
    medians = {name: median(values["forming"]) for name, values in found.items()}
    settings = {"rounds": rounds, "width": 768, "depth": 12}
    return Record(
        EXPERIMENT, TASK, METHOD, "cpu", 0, settings, {"seconds": medians, "n_rounds": rounds}, config=None,
        selected_on="nothing", cost={"peak_memory_mb": peak_memory()}, provenance=provenance(), history=found,
    )  # fmt: skip


def table(record: Record) -> pd.DataFrame:
    """Return a row a setting: parameters, numbers of dW, medians of seconds (forming, with gradients), and megabytes more."""
    rows = [
        (name, row["parameters"], row["numbers"], median(row["forming"]), median(row["with_gradients"]), row["memory_mb"])
        for name, row in record.history.items()
    ]
    return pd.DataFrame(rows, columns=["setting", "parameters", "numbers", "forming (s)", "with gradients (s)", "MB more"])


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; return 0."""
    parser = argparse.ArgumentParser(prog="python -m glora_lib.benchmark.forming", description=__doc__.splitlines()[0])
    parser.add_argument("--one", default="", help="a setting that is measured in this process alone, printed as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=share())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(one(options.one, options.rounds)))
        return 0
    print(line())
    record = measure(options.rounds)
    print(table(record).to_string(index=False, float_format="{:.3f}".format))
    print(record.save())
    return 0


if __name__ == "__main__":
    sys.exit(main())
