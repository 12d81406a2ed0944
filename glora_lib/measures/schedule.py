"""Records at the paper's schedule: rates that validation images choose, accuracy against epochs, a shorter profile beside."""

from collections.abc import Mapping

import pandas as pd

from glora_lib.measures.table import summarise
from glora_lib.runs.adapted import SUPERNETS
from glora_lib.runs.profile import Profile

SEVERAL = ("glora", "linear")  # what the names of rows with several rates begin with


def chosen(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records with one row for the rates of a row, that with the best validation accuracy of each task and seed.

    Methods are named "<row>" and "<row>-<rate>", of GLoRA and the linear probe; the chosen one is called "<row>". The column
    `rate` says which it was, and `rates` of how many; both are missing for other methods. Among equals the profile's own rate
    counts first.
    """
    if records.empty:
        return records.assign(rate=pd.Series(dtype=float), rates=pd.Series(dtype=float))
    records = records.reset_index(drop=True)  # of several experiments, each of which counts from 0
    row = records["method"].str.extract(r"^(.*?)(?:-([\d.e-]+))?$")
    named = records.assign(row=row[0], own=row[1].isna())
    searched = named["row"].str.startswith(SEVERAL)
    rate = [record.settings.get("learning_rate") for record in named["record"]]
    named = named.assign(rate=pd.Series(rate, index=named.index).where(searched))
    keys = ["task", "row", "seed"]
    ordered = named[searched].sort_values(["val", "own"], ascending=False, kind="stable")
    best = ordered.assign(rates=ordered.groupby(keys)["val"].transform("size")).drop_duplicates(keys)
    table = pd.concat([named[~searched].assign(rates=float("nan")), best]).sort_index()
    return table.assign(method=table["row"].where(searched.reindex(table.index), table["method"])).drop(columns=["row", "own"])


def held_against(records: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return the records in which a row of GLoRA is held against another row or a control.

    It has the rate that validation images chose; where the other is a search or a cut of the row's own supernet, the rate that
    this supernet was trained with, which is the profile's own.
    """
    return records if against in SUPERNETS else chosen(records)


def beside(records: pd.DataFrame, shorter: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return a row for every method and task that both profiles measured on the same number of test images.

    Args:
        records: of the longer profile.
        shorter: of the shorter one.
        names: a method of the longer profile -> what the shorter one calls it.

    Columns: method, task, longer and shorter (means over seeds, %), difference (points), n (seeds; the fewer of both).
    """
    columns = ["method", "task", "longer", "shorter", "difference", "n"]
    if records.empty or shorter.empty:
        return pd.DataFrame(columns=columns)
    tables = [summarise(table[table["method"].isin(kept)]) for table, kept in ((records, names), (shorter, names.values()))]
    own = tables[0].assign(name=tables[0]["method"].map(names))
    both = own.merge(
        tables[1], left_on=["name", "task", "n_test"], right_on=["method", "task", "n_test"], suffixes=("", "_short")
    )
    both = both.assign(longer=both["mean"], shorter=both["mean_short"], n=both[["n", "n_short"]].min(axis=1))
    return both.assign(difference=both["longer"] - both["shorter"])[columns]


def curve(budget: pd.DataFrame, records: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Return a row for every task, method and number of epochs on the budget curve's tasks: test (%), epochs, seed.

    Args:
        budget: records of the experiment "budget", whose methods are "<row>-<epochs>".
        records: records of the main table, which are the points at a row's own number of epochs.
    """
    columns = ["task", "method", "epochs", "seed", "test"]
    if budget.empty:
        return pd.DataFrame(columns=columns)
    parts = budget["method"].str.extract(r"^(.*)-(\d+)$")
    short = budget.assign(method=parts[0], epochs=parts[1].astype(int))
    own = records[records["task"].isin(profile.budget_tasks) & records["method"].isin(set(short["method"]))]
    own = own.assign(epochs=[record.settings["epochs"] for record in own["record"]])
    table = pd.concat([short, own])[columns]
    return table.assign(test=100 * table["test"]).sort_values(["method", "epochs", "task"], ignore_index=True)


def comparable(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of `curve` on the tasks that have every point, so that means over tasks are of the same tasks.

    A point is a method and a number of epochs that any task has. Without such a task all points are returned.
    """
    wanted = len(points[["method", "epochs"]].drop_duplicates())
    found = points.drop_duplicates(["task", "method", "epochs"]).groupby("task")["epochs"].transform("size")
    whole = set(points.loc[found[found == wanted].index, "task"])
    return points[points["task"].isin(whole)] if whole else points


def gap(points: pd.DataFrame, method: str, against: str) -> pd.DataFrame:
    """Return method - against for every task, number of epochs and seed that both have: task, epochs, seed, difference."""
    wide = points.pivot_table(index=["task", "epochs", "seed"], columns="method", values="test")
    if method not in wide or against not in wide:
        return pd.DataFrame(columns=["task", "epochs", "seed", "difference"])
    return (wide[method] - wide[against]).dropna().rename("difference").reset_index()
