"""Measurements that need a process of their own: the peak memory of a step, and how long the library takes to be ready.

python -m glora_lib.benchmark.fresh memory '{"profile": "cpu", "step": "supernet", ...}'
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

import torch

from glora_lib.benchmark import steps
from glora_lib.benchmark.setting import Setting
from glora_lib.runs.paths import ROOT
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.provenance import peak_memory

START = """
import time; start = time.perf_counter()
import glora_lib; imported = time.perf_counter()
glora_lib.load_backbone({name!r}, classes=10, image_size={size}, weights={weights!r}); ready = time.perf_counter()
print(imported - start, ready - imported)
"""


def start_up(setting: Setting, repeats: int = 2) -> dict[str, list[float]]:
    """Return the seconds of `import glora_lib` and then of the backbone, once a fresh process; the first is not counted."""
    program = START.format(name=setting.profile.backbone, size=setting.image_size, weights=setting.profile.weights)
    seconds = [list(map(float, _python("-c", program).split())) for _ in range(repeats + 1)]
    return {what: [pair[place] for pair in seconds[1:]] for place, what in enumerate(("import", "backbone"))}


def memory(setting: Setting, names: Sequence[str], whole: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """Return for each step the memory of a process in MB: before it, with model and optimiser, and at its peak.

    The process gives freed memory back at once, so that what one step leaves behind does not hide what the next one takes.
    `whole` are names of ours that also take the batch as a whole, under "<name>, whole batch".
    """
    plain = {name: value for name, value in asdict(setting).items() if name != "profile"} | {"profile": setting.profile.name}
    request = {"setting": plain, "names": list(names), "whole": list(whole), "threads": torch.get_num_threads()}
    return json.loads(_python("-m", "glora_lib.benchmark.fresh", json.dumps(request)))


def _python(*arguments: str) -> str:
    at_once = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "65536") if "-m" in arguments else {}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ | at_once)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout.strip().splitlines()[-1]


def _measure(request: dict) -> dict[str, dict[str, float]]:
    """Return what `memory` does; runs in the process that it starts."""
    torch.set_num_threads(request["threads"])
    plain = request["setting"]
    setting = Setting(**plain | {"profile": PROFILES[plain["profile"]]})
    measured = {name: _one(name, setting) for name in request["names"]}
    return measured | {f"{name}, whole batch": _one(name, setting, part_size=2**62) for name in request["whole"]}


def _one(name: str, setting: Setting, **options) -> dict[str, float]:
    net = steps.model(name, setting)
    data = [setting.images(2), setting.images()]
    steps.step(net, setting, own=steps.ours(name), data=data[0])(1)  # loads what a step needs
    net.zero_grad(set_to_none=True)
    visit = steps.step(net, setting, own=steps.ours(name), data=data[1], **options)
    gc.collect()
    before = _status("VmRSS") or peak_memory()
    _forget_peak()
    visit(1)
    return {"before": before, "peak": _status("VmHWM") or peak_memory()}


def _status(field: str) -> float | None:
    """Return a field of this process's memory in MB, where the system is Linux."""
    try:
        with open("/proc/self/status") as file:
            return next(float(row.split()[1]) / 2**10 for row in file if row.startswith(f"{field}:"))
    except (OSError, StopIteration):
        return None


def _forget_peak() -> None:
    """Let the system count the peak from here on; where it cannot, loading the weights counts too."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


if __name__ == "__main__":
    print(json.dumps(_measure(json.loads(sys.argv[1]))))
