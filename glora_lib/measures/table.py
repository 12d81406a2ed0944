"""From a table of records to what a reader compares: mean, spread and n, and paired differences between methods."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from scipy import stats

from glora_lib.measures.origin import source


def summarise(records: pd.DataFrame, metric: str = "test") -> pd.DataFrame:
    """Return a row per task and method: mean and sd over seeds in percent, n seeds, and n images of each test set."""
    percent = records.assign(percent=100 * records[metric])
    table = percent.groupby(["task", "method"], sort=False).agg(
        mean=("percent", "mean"), sd=("percent", "std"), n=("percent", "size"), n_test=("n_test", "first")
    )
    return table.reset_index()


def means(summary: pd.DataFrame, groups: Mapping[str, str], methods: Sequence[str]) -> pd.DataFrame:
    """Return the means with methods as rows and, as columns, (group, task), (group, "mean") and last ("all", "average").

    The average is the mean of the groups' means, as in the paper's tables. What has no record is NaN, and so is every mean
    that it belongs to. `groups` maps all tasks, in their order, to their groups; `methods` gives the rows.
    """
    values = summary.pivot(index="method", columns="task", values="mean").reindex(index=methods, columns=list(groups))
    columns = {}
    for group in dict.fromkeys(groups.values()):
        of_group = values[[task for task in groups if groups[task] == group]]
        columns |= {(group, task): of_group[task] for task in of_group}
        columns[(group, "mean")] = of_group.mean(axis=1, skipna=False)
    table = pd.DataFrame(columns)
    table[("all", "average")] = table.xs("mean", axis=1, level=1).mean(axis=1, skipna=False)
    table.columns.names = ["group", "task"]
    return table


def cells(summary: pd.DataFrame, groups: Mapping[str, str], methods: Sequence[str]) -> pd.DataFrame:
    """Return the table of `means` as text: "mean ± sd (n)" for a task, the number for a mean, "- (0)" without a record."""
    table = means(summary, groups, methods).map("{:.1f}".format, na_action="ignore").astype(object)
    for row in summary[summary["method"].isin(methods)].itertuples():
        table.loc[row.method, (groups[row.task], row.task)] = cell(row.mean, row.sd, row.n)
    return table.apply(lambda column: column.fillna("-" if column.name[1] in ("mean", "average") else "- (0)"))


def cell(mean: float, sd: float, n: int) -> str:
    """Return "mean ± sd (n)", without the spread where n is 1."""
    return f"{mean:.1f} ± {sd:.1f} ({n})" if n > 1 else f"{mean:.1f} ({n})"


def paired(records: pd.DataFrame, method: str, against: str, metric: str = "test", confidence: float = 0.95) -> pd.DataFrame:
    """Return a row per task: the difference method - against over the seeds that both have, in percentage points.

    Columns: task, difference (mean), sd, n, low and high (a t interval, wide at three seeds; NaN with one), positive (how many
    seeds have a positive difference).
    """
    columns = ["task", "difference", "sd", "n", "low", "high", "positive"]
    if metric not in records:
        return pd.DataFrame(columns=columns)
    values = records.assign(percent=100 * records[metric]).pivot_table(
        index=["task", "seed"], columns="method", values="percent"
    )
    if method not in values or against not in values:
        return pd.DataFrame(columns=columns)
    by_task = (values[method] - values[against]).dropna().groupby("task")
    samples = {task: by_task.get_group(task) for task in dict.fromkeys(records["task"]) if task in by_task.groups}
    return pd.DataFrame([(task, *interval(sample, confidence)) for task, sample in samples.items()], columns=columns)


def over_tasks(pairs: pd.DataFrame, by: str = "against", confidence: float = 0.95) -> pd.DataFrame:
    """Return a row per method `by`: the mean over tasks of the differences of `paired`, each task once.

    Columns: by, difference, sd (between tasks), n (tasks), low and high (a t interval over tasks, NaN with one), and ahead (on
    how many tasks the difference is positive). The interval speaks of tasks like these, not of seeds.
    """
    rows = [(method, *interval(sample, confidence)) for method, sample in pairs.groupby(by, sort=False)["difference"]]
    return pd.DataFrame(rows, columns=[by, "difference", "sd", "n", "low", "high", "ahead"])


def by_source(pairs: pd.DataFrame, by: str = "against") -> pd.DataFrame:
    """Return a row per method `by` and source of images: the mean `difference` over the tasks that share it.

    Columns: by, task (the source's name), difference. `over_tasks` of it counts sources instead of tasks.
    """
    named = pairs.assign(task=pairs["task"].map(source))
    return named.groupby([by, "task"], sort=False)["difference"].mean().reset_index()


def beside_random(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records of searches with what they found beside random subnets of the same supernet, on test images.

    New columns: random (the random subnets' mean, %), gain (found - random, points), optimism (what was found, validation -
    test, points), luck (optimism beyond that of the random subnets, which no validation image has chosen, points) and range
    (best - worst random subnet, points).
    """
    tests = records["random_test"].map(pd.Series)
    random = 100 * tests.map(pd.Series.mean)
    harder = random - 100 * records["random_val"].map(pd.Series).map(pd.Series.mean)
    optimism = 100 * (records["val"] - records["test"])
    return records.assign(
        random=random, gain=100 * records["test"] - random, optimism=optimism, luck=optimism + harder,
        range=100 * tests.map(lambda values: values.max() - values.min()),
    )  # fmt: skip


def beside_zero(pairs: pd.DataFrame, by: str = "against") -> pd.DataFrame:
    """Return a row per method `by`: on how many of its n tasks the difference of `paired` is sure of its sign.

    Columns: by, n (tasks), seeds (the fewest and the most pairs of a task, "1-3"), ahead (tasks with a positive difference),
    above and below (tasks whose interval lies above zero, or below; missing where no task has an interval).
    """
    rows = []
    for method, part in pairs.groupby(by, sort=False):
        seeds = "-".join(map(str, sorted({part["n"].min(), part["n"].max()})))
        sure = ((part["low"] > 0).sum(), (part["high"] < 0).sum()) if part["low"].notna().any() else (None, None)
        rows.append((method, len(part), seeds, (part["difference"] > 0).sum(), *sure))
    table = pd.DataFrame(rows, columns=[by, "n", "seeds", "ahead", "above", "below"])
    return table.astype({"above": "Int64", "below": "Int64"})


class Interval(NamedTuple):
    """A mean with its t interval: sd, n values, the ends (NaN with one value), and how many values are positive."""

    mean: float
    sd: float
    n: int
    low: float
    high: float
    positive: int

    @property
    def half(self) -> float:
        """Half its width: the smallest mean whose interval would lie beside zero, given this spread and n."""
        return (self.high - self.low) / 2


def interval(sample: pd.Series, confidence: float = 0.95) -> Interval:
    """Return the mean of independent values and its t interval."""
    half = stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * sample.sem() if len(sample) > 1 else float("nan")
    mean = sample.mean()
    return Interval(mean, sample.std(), len(sample), mean - half, mean + half, int((sample > 0).sum()))
