"""From a table of records to what a reader compares: mean, spread and n, and paired differences between methods."""

import pandas as pd
from scipy import stats


def summarise(records: pd.DataFrame, metric: str = "test") -> pd.DataFrame:
    """Return a row per task and method: mean and sd over seeds in percent, n seeds, and n images of each test set."""
    percent = records.assign(percent=100 * records[metric])
    table = percent.groupby(["task", "method"], sort=False).agg(
        mean=("percent", "mean"), sd=("percent", "std"), n=("percent", "size"), n_test=("n_test", "first")
    )
    return table.reset_index()


def wide(summary: pd.DataFrame) -> pd.DataFrame:
    """Return methods as rows and tasks as columns, "mean ± sd (n)", with the mean of the tasks' means last."""
    cells = summary.assign(cell=[_cell(*row) for row in summary[["mean", "sd", "n"]].itertuples(index=False)])
    order = list(dict.fromkeys(summary["task"]))
    table = cells.pivot(index="method", columns="task", values="cell")[order].fillna("no record")
    means = summary.pivot(index="method", columns="task", values="mean")
    table["mean of tasks"] = means.mean(axis=1, skipna=False).map("{:.1f}".format)  # a gap leaves no mean
    return table.reindex(dict.fromkeys(summary["method"]))


def paired(records: pd.DataFrame, method: str, against: str, metric: str = "test", confidence: float = 0.95) -> pd.DataFrame:
    """Return a row per task: the difference method - against over the seeds that both have, in percentage points.

    Columns: task, difference (mean), sd, n, low and high (a t interval, wide at three seeds; NaN with one), positive (how many
    seeds have a positive difference).
    """
    if metric not in records:
        return pd.DataFrame(columns=["task", "difference", "sd", "n", "low", "high", "positive"])
    values = records.assign(percent=100 * records[metric]).pivot_table(
        index=["task", "seed"], columns="method", values="percent"
    )
    if method not in values or against not in values:
        return pd.DataFrame(columns=["task", "difference", "sd", "n", "low", "high", "positive"])
    rows = []
    differences = (values[method] - values[against]).dropna()
    for task in dict.fromkeys(records["task"]):
        if task not in differences.index.get_level_values("task"):
            continue
        sample = differences.loc[task]
        half = stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * sample.sem() if len(sample) > 1 else float("nan")
        mean = sample.mean()
        rows.append((task, mean, sample.std(), len(sample), mean - half, mean + half, int((sample > 0).sum())))
    return pd.DataFrame(rows, columns=["task", "difference", "sd", "n", "low", "high", "positive"])


def _cell(mean: float, sd: float, n: int) -> str:
    return f"{mean:.1f} ± {sd:.1f} ({n})" if n > 1 else f"{mean:.1f} ({n})"
