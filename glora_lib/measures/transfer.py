"""Records of few-shot runs and of runs measured on shifted targets, as tables by shots and by target."""

from collections.abc import Sequence

import pandas as pd

from glora_lib.data.few_shot import parse
from glora_lib.measures.table import cell


def by_shots(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records of few-shot runs, `task` without the seed of its draw, so that seeds are averaged together.

    "mnist_5k-4shot-s0" becomes "mnist_5k 4", with the columns `set` ("mnist_5k") and `shots` (4) beside it. Records of whole
    tasks are left out.
    """
    names = [parse(task) for task in records["task"]]
    table = records[pd.Series([name is not None for name in names], index=records.index, dtype=bool)].copy()
    names = [name for name in names if name]
    table["set"], table["shots"] = [name.task for name in names], [name.shots for name in names]
    table["task"] = [f"{name.task} {name.shots}" for name in names]
    return table


def chance(records: pd.DataFrame) -> pd.Series:
    """Return, indexed by the tasks of `by_shots`, the accuracy of a guess: one over the number of classes, a fraction."""
    return (records["shots"] / records["n_train"]).groupby(records["task"], sort=False).first()


def above_chance(records: pd.DataFrame, probe: str = "linear", factor: float = 2) -> pd.DataFrame:
    """Return the records of `by_shots` on points where the linear probe, which is not compared, has `factor` times chance.

    Elsewhere no method reads much off so few images, and the difference of two says nothing. Without a probe all are kept.
    """
    probed = records[records["method"] == probe]
    if probed.empty:
        return records
    reached = probed.groupby("task")["test"].mean()
    return records[records["task"].isin(reached.index[reached >= factor * chance(probed).reindex(reached.index)])]


def by_target(records: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run and target, from the metrics `shift_<target>` and `n_<target>` beside the source's `test`.

    Columns: task ("mnist_5k on optdigits"), source, target ("source" for the source's own test images), method, seed, test
    (the accuracy, a fraction) and n_test.
    """
    columns = ["task", "source", "target", "method", "seed", "test", "n_test"]
    metrics = {"source": ("test", "n_test")}
    metrics |= {n[6:]: (n, f"n_{n[6:]}") for n in records if n.startswith("shift_")}
    parts = [
        records.assign(source=records["task"], target=target, test=records[value], n_test=records[number])
        for target, (value, number) in metrics.items()
        if value in records
    ]
    if not parts:
        return pd.DataFrame(columns=columns)
    table = pd.concat(parts).dropna(subset="test")
    table["n_test"] = table["n_test"].astype(int)  # a target that some records lack had made it a float
    return table.assign(task=table["source"] + " on " + table["target"])[columns].reset_index(drop=True)


def retained(targets: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `by_target` for the targets alone, `test` divided by that of the same run on its source."""
    keys = ["source", "method", "seed"]
    own = targets[targets["target"] == "source"].set_index(keys)["test"]
    away = targets[targets["target"] != "source"].copy()
    away["test"] = [row.test / own[row.source, row.method, row.seed] for row in away.itertuples()]
    return away


def methods_abreast(summary: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return the summary of `table.summarise` with a row a task and n images, a column a method: "mean ± sd (n)"."""
    text = [cell(row.mean, row.sd, row.n) for row in summary.itertuples()]
    rows = pd.MultiIndex.from_frame(summary[["task", "n_test"]].drop_duplicates(), names=["task", "n test"])
    table = summary.assign(text=text).pivot(index=["task", "n_test"], columns="method", values="text")
    return table.reindex(index=rows, columns=list(methods)).astype(object).fillna("- (0)")
