"""The benchmark as one record, and the table of what was wanted beside what was measured."""

import time

import numpy as np
import pandas as pd

from glora_lib import backbones
from glora_lib.benchmark import fresh, growth, limits, searching, steps
from glora_lib.benchmark.setting import Setting
from glora_lib.runs.grid import COMPUTE
from glora_lib.runs.provenance import peak_memory, provenance
from glora_lib.runs.record import Record, RecordError, check_place, results
from glora_lib.runs.run import Run

EXPERIMENT, TASK, METHOD = "benchmark", "random_images", "all"
PAIRS = {  # what -> (ours, against whom, wanted in float32, wanted in bfloat16)
    "supernet step": ("supernet", "supernet, literal", 1.15, 2.2),
    "fixed-configuration step": ("fixed", "fixed, peft", 1.5, 2.4),
    "LoRA step, B alone": ("B alone", "LoRA, peft", 1.0, 1.6),
}
MEMORY = ("supernet", "supernet, literal", "B alone", "LoRA", "full fine-tuning")
SECONDS = {"import": 3.0, "backbone": 3.0}  # allowed
BF16_PAYS = 1.2  # times the rate of float32, from which on bfloat16 counts as something that the processor has


def measure(setting: Setting, say=lambda line: None) -> Record:
    """Measure everything, in this order, and return the record, not yet saved. `say` is told what begins.

    Raises RecordError, before anything is measured, where a record of other settings is in its place.
    """
    check_place(_run(setting).path, setting.plain())
    history, cost = {}, {}
    recipe = setting.profile
    width = setting.backbone().embed_dim
    rows = setting.batch * (1 + setting.side**2)

    def stage(name: str, function) -> None:
        say(name)
        start = time.perf_counter()
        history[name] = function()
        cost[f"seconds_{name}"] = time.perf_counter() - start

    stage("rates", lambda: limits.product_rates(rows, width))
    fast = history["rates"]["bfloat16"] > BF16_PAYS * history["rates"]["float32"]
    dtypes = ("float32", "bfloat16") if fast else ("float32",)
    stage("steps", lambda: {dtype: steps.times(setting, dtype) for dtype in dtypes})
    stage("memory", lambda: fresh.memory(setting, MEMORY, whole=("supernet",)))
    stage("search", lambda: searching.search(setting))
    stage("start_up", lambda: fresh.start_up(setting, repeats=min(2, setting.rounds)))
    stage("growth", lambda: growth.growth(setting, rounds=max(1, setting.rounds // 4)))
    stage("operations", lambda: limits.step_operations(setting))
    stage("profiles", lambda: limits.profiles(setting))
    cost["peak_memory_mb"] = peak_memory()
    settings = setting.plain() | {
        "image_size": setting.image_size,
        "tokens": 1 + setting.side**2,
        "weights_sha256": backbones.weights_sha256(recipe.backbone, recipe.weights),
        "backbone_label": backbones.label(recipe.backbone, recipe.weights),
    }
    record = Record(
        EXPERIMENT, TASK, METHOD, recipe.name, setting.seed, settings, {"n_rounds": setting.rounds}, config=None,
        selected_on="nothing", cost=cost, provenance=provenance(), history=history,
    )  # fmt: skip
    record.metrics["ratio"] = {row.what: row.measured for row in table(record).itertuples() if row.n}
    return record


def recorded(setting: Setting, compute: str = "missing", say=lambda line: None) -> Record:
    """Return the record of a setting, measured first if there is none ("missing") or always ("all").

    Raises RecordError if it is missing and must not be measured ("none"), and for a record of uncommitted code as `results`.
    """
    if compute not in COMPUTE:
        raise ValueError(f"compute {compute!r} is not known; valid: {', '.join(COMPUTE)}")
    if compute == "all" or (compute == "missing" and not _exists(setting)):
        measure(setting, say).save()
    if not _exists(setting):
        raise RecordError(f'no record {_run(setting).path.name} with these settings; run with compute="missing"')
    rows = results(EXPERIMENT, setting.profile.name)
    return rows[(rows["method"] == METHOD) & (rows["seed"] == setting.seed)]["record"].item()


def table(record: Record) -> pd.DataFrame:
    """Return a row for everything that was wanted: what, against, wanted, measured, low, high, n, reached.

    `measured` is a median over rounds of the ratio within a round, `low` and `high` are its 5th and 95th percentile.
    Where n is 0 nothing was measured, for the reason in `against`; `reached` is None there, and where there is no limit.
    """
    history, rows = record.history, []

    def add(what: str, against: str, wanted: str, values, reached) -> None:
        values = np.asarray(values, float)
        if not len(values):
            rows.append((what, against, wanted, np.nan, np.nan, np.nan, 0, None))
            return
        middle, (low, high) = float(np.median(values)), np.quantile(values, (0.05, 0.95))
        verdict = bool(reached(middle)) if reached else None
        rows.append((what, against, wanted, middle, float(low), float(high), len(values), verdict))

    rates = history["rates"]
    why = f"not measured: bfloat16 products run at {rates['bfloat16'] / rates['float32']:.3f} of float32's rate"
    for what, (ours, theirs, *wanted) in PAIRS.items():
        for dtype, least in zip(("float32", "bfloat16"), wanted, strict=True):
            times = history["steps"].get(dtype)
            ratio = [] if times is None else np.divide(times[theirs], times[ours])
            against = why if times is None else theirs
            add(f"{what}, {dtype}", against, f"at least {least}x", ratio, lambda value, least=least: value >= least)
    search = searching.projected(history["search"])
    add("one search, float32", "the authors' loop", "at least 2.0x", [search["ratio"]], lambda value: value >= 2)
    add("one search, bfloat16", why if "bfloat16" not in history["steps"] else "not timed", "at least 6.0x", [], None)
    peak = {name: seen["peak"] - seen["before"] for name, seen in history["memory"].items()}
    literal = peak["supernet, literal"]
    bounds = {"supernet": ("at most 0.8x", lambda value: value <= 0.8), "supernet, whole batch": ("no limit", None)}
    for name, (allowed, reached) in bounds.items():
        ratio = [peak[name] / literal] if literal > 0 else []  # a tiny model can do with what the process holds already
        against = "supernet, literal" if ratio else "not measured: the literal step took no memory beyond the process's"
        add(f"memory of a step, {name}", against, allowed, ratio, reached)
    for dtype, times in history["steps"].items():
        ratio = np.divide(times["forward, fused"], times["forward, base"])
        low, high = np.quantile(ratio, (0.05, 0.95))
        add(f"fused inference, {dtype}", "forward, base", "1.00", ratio, lambda _, low=low, high=high: low <= 1 <= high)
    for what, seconds in history["start_up"].items():
        add(f"{what}, seconds", "-", f"under {SECONDS[what]:g} s", seconds, lambda value, most=SECONDS[what]: value < most)
    return pd.DataFrame(rows, columns=["what", "against", "wanted", "measured", "low", "high", "n", "reached"])


def _run(setting: Setting) -> Run:
    return Run(EXPERIMENT, TASK, METHOD, setting.profile, setting.seed)


def _exists(setting: Setting) -> bool:
    try:
        settings = Record.load(_run(setting).path).settings
    except RecordError:
        return False
    return settings.items() >= setting.plain().items()
