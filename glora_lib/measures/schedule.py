"""Records at the paper's schedule: GLoRA's rate, chosen on validation images, and accuracy against epochs."""

import pandas as pd

from glora_lib.runs.profile import Profile


def chosen(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records with one row for GLoRA's rates, that with the best validation accuracy of each task and seed.

    Methods are named "<row>" and "<row>-<rate>"; the chosen one is called "<row>". The column `rate` says which it was, and
    `rates` of how many; both are missing for other methods. Among equals the profile's own rate counts first.
    """
    if records.empty:
        return records.assign(rate=pd.Series(dtype=float), rates=pd.Series(dtype=float))
    row = records["method"].str.extract(r"^(.*?)(?:-([\d.e-]+))?$")
    named = records.assign(row=row[0], own=row[1].isna())
    searched = named["row"].str.startswith("glora")
    rate = [record.settings.get("learning_rate") for record in named["record"]]
    named = named.assign(rate=pd.Series(rate, index=named.index).where(searched))
    keys = ["task", "row", "seed"]
    ordered = named[searched].sort_values(["val", "own"], ascending=False, kind="stable")
    best = ordered.assign(rates=ordered.groupby(keys)["val"].transform("size")).drop_duplicates(keys)
    table = pd.concat([named[~searched].assign(rates=float("nan")), best]).sort_index()
    return table.assign(method=table["row"].where(searched.reindex(table.index), table["method"])).drop(columns=["row", "own"])


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


def gap(points: pd.DataFrame, method: str, against: str) -> pd.DataFrame:
    """Return method - against for every task, number of epochs and seed that both have: task, epochs, seed, difference."""
    wide = points.pivot_table(index=["task", "epochs", "seed"], columns="method", values="test")
    if method not in wide or against not in wide:
        return pd.DataFrame(columns=["task", "epochs", "seed", "difference"])
    return (wide[method] - wide[against]).dropna().rename("difference").reset_index()
