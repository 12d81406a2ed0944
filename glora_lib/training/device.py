"""Where models compute: the processor or a GPU, as `DEVICE` says, and what a record says of it."""

import gc
import multiprocessing
import os
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None

CHOICES = "auto, cpu, cuda, or one of several GPUs, cuda:0"
_locks: list = []  # that this process holds, of the GPU that it has taken


class DeviceError(RuntimeError):
    """The device that was asked for is not here."""


def device(wanted: str | None = None) -> torch.device:
    """Return the device that `wanted`, else the environment's `DEVICE`, asks for; "auto", the default, is a GPU if one is here.

    Of several GPUs, processes that were started to compute at once take one each, which nobody else of them has. Raises
    DeviceError for a GPU that is not here, and for a name that is none of the choices.
    """
    name = (wanted or os.environ.get("DEVICE") or "auto").strip().lower()
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise DeviceError(f"DEVICE={name!r} is not known; valid: {CHOICES}")
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= here:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        raise DeviceError(
            f"DEVICE={name} asks for a GPU, and torch {torch.__version__} ({built}) sees {here} here; "
            "mend the driver (nvidia-smi must list the card), or set DEVICE=cpu or DEVICE=auto"
        )
    return torch.device("cuda", int(number) if number else _turn(_worker(), here))


def suited(dtype: str, place: torch.device) -> str:
    """Return the number format that a run asked for `dtype` computes in: float32 on a processor without bfloat16 products.

    There bfloat16 would be many times slower. A processor has no TF32 either.
    """
    if place.type != "cpu" or dtype == "float32":
        return dtype
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return dtype if dtype == "bfloat16" and has else "float32"


def describe(place: torch.device) -> dict:
    """Return what a record says of a device, as plain JSON types: its name, and for a GPU driver, CUDA and memory."""
    if place.type != "cuda":
        return {"device": place.type}
    properties = torch.cuda.get_device_properties(place)
    return {
        "device": "cuda",
        "device_name": properties.name,
        "device_memory_mb": round(properties.total_memory / 2**20),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


@contextmanager
def products(dtype: str):
    """While it lasts, a GPU rounds the factors of float32 products to TF32 if `dtype` is "tf32", and to nothing less if not."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def generator_state(place: torch.device) -> torch.Tensor | None:
    """Return the state of the generator that dropout draws from on a GPU; None on the processor, whose is torch's own."""
    return torch.cuda.get_rng_state(place) if place.type == "cuda" else None


def peak_memory(place: torch.device) -> float | None:
    """Return the largest memory that tensors had on a GPU since `forget_peak`, in MB; None elsewhere."""
    return torch.cuda.max_memory_allocated(place) / 2**20 if place.type == "cuda" else None


def forget_peak(place: torch.device) -> None:
    """Let `peak_memory` count from here."""
    if place.type == "cuda" and torch.cuda.is_initialized():  # before that torch has no counter, and refuses
        torch.cuda.reset_peak_memory_stats(place)


def free() -> None:
    """Give back the memory of what is no longer in use; a graph and the program that it belongs to hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _worker() -> int | None:
    """The number, from 0, of a process that was started by another to compute beside others; None in a process of its own."""
    identity = multiprocessing.current_process()._identity
    return identity[-1] - 1 if identity else None


@cache
def _turn(worker: int | None, here: int) -> int:
    """Return which of the GPUs a process takes, for as long as it lives.

    A worker that stands in for one that ended has a number of its own, so that numbers alone would give some GPU to two: each
    locks a file for its GPU, which the system unlocks when the process ends. Where all are taken, numbers decide.
    """
    for number in range(here if worker is not None and fcntl is not None else 0):
        lock = Path(tempfile.gettempdir(), f"glora_lib-{os.getuid()}-gpu-{number}.lock").open("a")  # noqa: SIM115 - held
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        _locks.append(lock)
        return number
    return (worker or 0) % here


def _driver() -> str:
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
        return next(word for word in words if word[0].isdigit() and "." in word)
    except (OSError, StopIteration):
        return "unknown"
