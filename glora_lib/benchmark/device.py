"""Steps on one device, in two number formats: ours alone and many at once, the literal formula's, peft's, and the limit.

    python -m glora_lib.benchmark --device cuda

Random weights take as long as pretrained ones. Every contestant is visited once a round, in a new order each; what is compared
is the ratio within a round. One that fails, for want of memory or else, is in the record with its error and without times.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from glora_lib.benchmark.contestants import TOGETHER, Maker, Model, contestants
from glora_lib.benchmark.steps import Visit, in_turns
from glora_lib.runs.provenance import provenance
from glora_lib.runs.record import Record, check_place, folder
from glora_lib.training import device as devices
from glora_lib.training.graph import WARM_UP

RUNS = 11
EXPERIMENT, TASK, PROFILE = "benchmark_device", "random_images", "gpu"
PLAIN, CAPTURED = WARM_UP, WARM_UP + 3  # visits before the rounds: as many are no graph yet, and all of them

MODELS = (
    Model("ViT-S/14, 98 px", "vit_small_patch14_dinov2", 98),
    Model("ViT-B/16, 224 px", "vit_base_patch16_224", 224),
)
ON_A_PROCESSOR = MODELS[:1], 2  # where a step of the larger model takes a minute, and many at once gain nothing


def measure(
    place: torch.device,
    models: Sequence[Model] = MODELS,
    dtypes: Sequence[str] = ("bfloat16", "float32"),
    batch: int = 64,
    rounds: int = 11,
    runs: int = RUNS,
    say: Callable[[str], None] = lambda line: None,
    keep: Callable[[Record], object] = lambda record: None,
) -> Record:
    """Return the record of all models in all number formats on one device, not yet saved.

    `keep` is given the record so far after each model, so that little is lost where time ends first: the first number format
    of all models comes before the second.

    Raises RecordError, before anything is measured, where a record of this device with other settings is in its place.
    """
    settings = {"models": [m.label for m in models], "dtypes": list(dtypes), "batch": batch, "rounds": rounds, "runs": runs}
    name = devices.describe(place).get("device_name", "processor").replace(" ", "-").lower()
    check_place(folder(EXPERIMENT, PROFILE) / f"{TASK}--{name}--{PROFILE}--s0.json", settings)
    start = time.perf_counter()
    record = Record(
        EXPERIMENT, TASK, name, PROFILE, 0, settings, {"n_rounds": rounds}, None, "nothing",
        {"seconds": 0.0}, provenance("bfloat16 and float32", place),
    )  # fmt: skip
    for dtype in dtypes:
        for model in models:
            say(f"{model.label}, {dtype}")
            record.history[f"{model.label}, {dtype}"] = part = _one(model, dtype, place, batch, rounds, runs)
            record.cost["seconds"] = time.perf_counter() - start
            keep(record)
            for step, error in part["failed"].items():
                say(f"{model.label}, {dtype}, {step}: {error}")
    return record


def table(record: Record) -> pd.DataFrame:
    """Return a row for every step of a model in a number format, with medians over rounds.

    Columns: model, dtype, step, ms, ms a run (or a candidate, where a score has several), times as fast as literal (a run, in
    the same round), peak MB (of the first steps, beyond what was there before), limit ms (what its products take at the
    device's own rate), times the limit. A step that failed has none of them, and its error is in the last column, failed.
    """
    rows = []
    for name, part in record.history.items():
        label, dtype = name.rsplit(", ", 1)
        literal_ms = np.array(part["seconds"].get("supernet, literal", np.nan))
        for step, seconds in part["seconds"].items():
            runs = part["runs"].get(step, 1)
            median = 1000 * float(np.median(seconds))
            ratio = float(np.median(literal_ms / (np.array(seconds) / runs))) if step.startswith("supernet") else np.nan
            limit = 1000 * part["operations"].get(step, np.nan) / part["rate"]
            rows.append((label, dtype, step, median, median / runs, ratio, part["memory"].get(step), limit, median / limit, ""))
        rows += [(label, dtype, step, *[np.nan] * 6, error) for step, error in part.get("failed", {}).items()]
    columns = ["model", "dtype", "step", "ms", "ms a run", "times as fast as literal", "peak MB", "limit ms", "times the limit"]
    return pd.DataFrame(rows, columns=[*columns, "failed"])


def _one(model: Model, dtype: str, place: torch.device, batch: int, rounds: int, runs: int) -> dict:
    makers, operations = contestants(model, dtype, place, batch, runs)
    visits, memory, failed = _ready(makers, place)
    seconds = in_turns({name: _timed(visit, place) for name, visit in visits.items()}, rounds)
    joint = {name: TOGETHER if name.startswith("score") else runs for name in makers if "at once" in name}
    measured = {"seconds": seconds, "memory": memory, "failed": failed}
    return measured | {"runs": joint, "operations": operations, "rate": _rate(place, dtype, batch)}


def _ready(makers: Mapping[str, Maker], place: torch.device) -> tuple[dict[str, Visit], dict[str, float], dict[str, str]]:
    """Make the contestants and visit each until its graphs are captured and its kernels chosen.

    Returns the visits, on a GPU the peak memory of each in MB, and the errors of those that failed.
    """
    visits, memory, failed = {}, {}, {}
    for name, make in makers.items():
        _tidy(place)
        try:
            visits[name], peak = _warm(make, place)
            memory |= {} if peak is None else {name: peak}
        except RuntimeError as error:  # a GPU's too, such as torch.OutOfMemoryError
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    _tidy(place)
    return visits, memory, failed


def _warm(make: Maker, place: torch.device) -> tuple[Visit, float | None]:
    """Return a contestant's visit after some, and the memory that the first ones needed beyond what was there, in MB.

    A graph that is replayed asks for no memory, so that its peak is that of the same steps before they are a graph.
    """
    if place.type != "cuda":
        visit = make()
        visit(0)
        return visit, None
    before = torch.cuda.memory_allocated(place)
    devices.forget_peak(place)
    visit = make()
    for number in range(PLAIN):
        visit(number)
    peak = torch.cuda.max_memory_allocated(place) - before
    for number in range(PLAIN, CAPTURED):
        visit(number)
    torch.cuda.synchronize(place)
    return visit, peak / 2**20


def _tidy(place: torch.device) -> None:
    """Give back the memory of what is gone, so that it is not counted and the next can have it."""
    if place.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _timed(visit: Visit, place: torch.device) -> Visit:
    """Return the visit with an end that waits for the device."""

    def whole(number: int) -> None:
        visit(number)
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    return whole


def _rate(place: torch.device, dtype: str, batch: int, repeats: int = 20) -> float:
    """Return the operations a second of the device's own products, of square matrices, the best of some."""
    side = 8192 if place.type == "cuda" else 256
    a, b = (torch.randn(side, side, device=place).to(getattr(torch, dtype)) for _ in range(2))
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
