"""Numbers about language models: tables of records, paired intervals over the same questions, and a merge that errs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from glora_lib.glora.layer import GLoRALinear
from glora_lib.measures.table import Interval, interval

Z = 1.96  # of a normal interval of 95 %


def table(records: pd.DataFrame, benchmarks: Sequence[str]) -> pd.DataFrame:
    """Return a row per task (set of instructions) and method: means over seeds in percent, and n.

    Columns: the benchmarks, average (their mean), sd (of the average, over seeds), loss (held-out, nats a token), n (seeds).
    """
    percent = records.assign(**{name: 100 * records[name] for name in (*benchmarks, "average")})
    groups = percent.groupby(["task", "method"], sort=False)
    found = groups[[*benchmarks, "average", "loss"]].mean()
    return found.assign(sd=groups["average"].std(), n=groups.size()).reset_index()


def standard_errors(record) -> dict[str, float]:
    """Return benchmark -> the standard error of its mean over questions in percentage points, and that of the "average"."""
    items = record.history["items"]
    errors = {name: 100 * np.std(values, ddof=1) / len(values) ** 0.5 for name, values in items.items()}
    return errors | {"average": float(np.sqrt(sum(error**2 for error in errors.values())) / len(errors))}


def seconds_a_step(record) -> float:
    """Return how long a step of the optimiser took on average, NaN for a model that was not trained."""
    epochs = len(record.history.get("train", ()))
    a_step = record.settings["batch_size"] * record.settings["accumulate"]
    steps = epochs * -(-record.metrics["n_train"] // a_step)
    return record.cost["seconds_train"] / steps if steps else float("nan")


def beside_published(record, published: pd.DataFrame) -> pd.DataFrame:
    """Return a row per benchmark of a record in percent: ours, se (standard error), n, and each place's published value.

    "arc_average" is the mean of ARC's two sets, where both were asked. `published` has the columns benchmark, place and value.
    """
    errors = standard_errors(record)
    rows = {name: (100 * np.mean(items), errors[name], len(items)) for name, items in record.history["items"].items()}
    if {"arc", "arc_easy"} <= rows.keys():
        (first, one, n), (second, other, m) = rows["arc"], rows["arc_easy"]
        rows["arc_average"] = ((first + second) / 2, (one**2 + other**2) ** 0.5 / 2, n + m)
    found = pd.DataFrame.from_dict(rows, orient="index", columns=["ours", "se", "n"])
    return found.join(published.pivot(index="benchmark", columns="place", values="value"))


def paired(records: pd.DataFrame, method: str, against: str) -> pd.DataFrame:
    """Return a row per task: method - against on the same questions, over the seeds that both have, in percentage points.

    The difference is the average over benchmarks, each the mean over its questions of the mean over seeds. The interval of 95 %
    is over questions, of which other draws would give other numbers; it does not count other seeds. "base" has one seed, which
    stands beside every seed of the other. Columns: task, difference, low, high, n (seeds), questions.
    """
    rows = [
        (task, *_over_questions(found))
        for task in dict.fromkeys(records["task"])
        if (found := _pairs(records, method, against, task))
    ]
    return pd.DataFrame(rows, columns=["task", "difference", "low", "high", "n", "questions"])


def over_sets(records: pd.DataFrame, method: str, against: str) -> tuple[Interval, Interval, int]:
    """Return method - against over all trainings of all tasks, in points: the interval over questions, that over trainings.

    The last number is that of the questions. Without a pair, n is 0 and all else NaN.
    """
    pairs = [pair for task in dict.fromkeys(records["task"]) for pair in _pairs(records, method, against, task)]
    if not pairs:
        return *[Interval(*[float("nan")] * 2, 0, *[float("nan")] * 2, 0)] * 2, 0
    mean, low, high, _, questions = _over_questions(pairs)
    trainings = interval(pd.Series([100 * np.mean([items.mean() for items in pair.values()]) for pair in pairs]))
    return Interval(mean, float("nan"), questions, low, high, 0), trainings, questions


@torch.no_grad()
def merged_by_the_fork(layer: GLoRALinear) -> tuple[Float[Tensor, "d2 d1"], Float[Tensor, " d2"]]:
    """Return the weight and bias that the authors' fork of peft merges (src/peft/tuners/glora.py, 374-389).

    It changes the weight first, and multiplies C with the changed one: the bias is E + W @ C where the layer adds E + W0 @ C.
    """
    W, b = layer.effective()
    C = layer._tensor("C")
    b = layer.W0.new_zeros(len(layer.W0)) if b is None else b
    return W, b if C is None else b + ((W - layer.W0) @ C).squeeze(-1)


def _pairs(records: pd.DataFrame, method: str, against: str, task: str) -> list[dict[str, np.ndarray]]:
    """Return for each seed that both have: benchmark -> differences of the questions. The untrained model has every seed."""
    if method == against:
        return []
    first, second = (_items(records, name, task) for name in (method, against))
    if "base" in (method, against):
        base = next(iter(_items(records, "base").values()), None)
        first, second = (found or (dict.fromkeys({**first, **second}, base) if base else {}) for found in (first, second))
    seeds = sorted(first.keys() & second.keys())
    return [{name: np.subtract(first[seed][name], second[seed][name]) for name in first[seed]} for seed in seeds]


def _over_questions(pairs: list[dict[str, np.ndarray]]) -> tuple[float, float, float, int, int]:
    """Return mean, low and high in points of the average over benchmarks, the number of pairs, and that of questions."""
    differences = [np.mean([pair[name] for pair in pairs], axis=0) for name in pairs[0]]
    mean = 100 * np.mean([d.mean() for d in differences])
    error = 100 * np.sqrt(sum(d.var(ddof=1) / len(d) for d in differences)) / len(differences)
    return mean, mean - Z * error, mean + Z * error, len(pairs), sum(map(len, differences))


def _items(records: pd.DataFrame, method: str, task: str | None = None) -> dict[int, dict[str, list[float]]]:
    """Return seed -> benchmark -> values of the questions; of a trained method those of one task."""
    rows = records[records["method"] == method]
    rows = rows if task is None else rows[(rows["task"] == task) & (rows["method"] != "base")]
    return {row.seed: row.record.history["items"] for row in rows.itertuples()}
