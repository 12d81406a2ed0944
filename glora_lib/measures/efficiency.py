"""Accuracy against trained parameters: the points of SuperLoRA's figures, their front, and the pairs its sentences name."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from glora_lib.measures.table import paired
from glora_lib.runs.superlora import best_rates

FAMILIES = (  # what a setting's name begins or ends with -> the family that a figure draws it with; the first that fits
    ("dense rho", "dense, projected"),
    ("dense", "dense"),
    ("LoRA", "LoRA"),
    ("2D fold", "2D, reshaped"),
    ("2D", "2D"),
    ("3D", "3D"),
    ("4D", "4D"),
    ("5D", "5D"),
    ("LoHa", "LoHa"),
    ("LoKr", "LoKr"),
    ("LoNKr", "LoNKr"),
    ("LoTR", "LoTR"),
    ("source", "source"),
    ("base", "source"),
    ("FT Wq Wv", "dense"),
    ("SuperLoRA", "2D, reshaped"),
)


class Sentence(NamedTuple):
    """A sentence of the paper as a difference in accuracy: `method` minus `against` plus `margin` points is positive."""

    says: str
    method: str
    against: str
    margin: float = 0.0  # points, where it says "comparable" or "less than"


# By setting, with the queries and values of a ViT-S in mind; the ratio of their parameters is computed where they are shown.
SENTENCES = {
    "three-fold": Sentence("a third to a quarter of LoRA's parameters, the same accuracy", "2D fold G=1 r=4", "LoRA r=3"),
    "reshaping": Sentence("reshaped to a square better at equal parameters", "2D fold G=1 r=5", "2D G=1 r=2"),
    "order": Sentence("3D ahead of the smallest LoRA at its parameters, by about a point", "3D r=20", "LoRA r=1"),
    "ten-fold": Sentence("3D with a tenth of the smallest LoRA's parameters comparable", "3D r=3", "LoRA r=1", 1.0),
    "hill": Sentence("at 5D's large cores a lower order is better", "2D fold G=1 r=2", "5D r=6"),
    "ratio": Sentence("dense, 90 % fewer numbers before F: less than a point lost", "dense rho=0.1", "dense", 1.0),
    "worse-than-lora": Sentence("dense projected to a tenth worse than LoRA", "LoRA r=16", "dense rho=0.1"),
    "projection": Sentence("projected better at equal parameters", "2D fold G=1 r=4 rho=0.25", "2D fold G=1 r=2"),
}


# Of generated digits, in hundredths of the l1 score; the settings are those of `runs.image_generation`.
IMAGES = {
    "dense-best": Sentence("dense has the best score", "dense", "LoRA r=1"),
    "group-1": Sentence("2D, G = 1 ahead of LoRA at few parameters", "2D fold G=1 r=4", "LoRA r=1"),
    "more-splits": Sentence("a third split, at few parameters, better", "LoNKr K=3 side=6 r=4", "LoKr K=2 side=6 r=4"),
}


# Of texts, in points of BLEU or of the metric that is asked for; the settings are those of `runs.text_generation`.
TEXTS = {
    "ahead": Sentence("with 70 % fewer parameters ahead of LoRA", "SuperLoRA r=9", "LoRA r=4"),
    "ahead-of-ft": Sentence("ahead of full fine-tuning of Wq and Wv", "SuperLoRA r=9", "FT Wq Wv"),
    "more-compression": Sentence("dense: fewer numbers before F are better", "dense rho=0.01", "dense rho=0.1"),
}


def named(label: str) -> str:
    """Return the name of a setting from a record's label, without the rate where that follows."""
    return label.split("@")[0].replace("_", " ")


def at_best_rates(records: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the records at their task's and setting's best rate, which validation images chose with this seed."""
    if records.empty:
        return records.assign(rate=pd.Series(dtype=float))
    kept = []
    for _, part in records.groupby("task", sort=False):
        part = part.assign(rate=part["method"].str.split("@").str[1].astype(float))
        best = part["method"].map(named).map(best_rates(part, seed))
        kept.append(part[part["rate"] == best])
    return pd.concat(kept)


def by_rate(records: pd.DataFrame, seed: int, metric: str = "val") -> pd.DataFrame:
    """Return a metric in percent, a row per task and setting, a column per rate, with one seed."""
    part = records[records["seed"] == seed]
    split = part["method"].str.split("@", expand=True)
    table = part.assign(setting=part["method"].map(named), rate=split[1].astype(float), percent=100 * part[metric])
    return table.pivot(index=["task", "setting"], columns="rate", values="percent")


def family(name: str) -> str:
    """Return the family of a setting by its name; what is projected or shuffled after factors is one of its own."""
    found = next(family for start, family in FAMILIES if name.startswith(start))
    return found if found.startswith("dense") or ("rho" not in name and "shuffled" not in name) else "2D, projected"


def points(records: pd.DataFrame, metric: str = "test", times: float = 100) -> pd.DataFrame:
    """Return a row per task and setting: family, parameters (trained, without head), mean and sd, n, n_test.

    `times` is what the metric is multiplied with: 100 makes percent.
    """
    columns = ["task", "name", "family", "parameters", "mean", "sd", "n", "n_test"]
    if records.empty:
        return pd.DataFrame(columns=columns)
    counted = next(name for name in ("n_test", "n_pictures", "n_held_out") if name in records)
    values = records.assign(name=records["method"].map(named), value=times * records[metric])
    groups = values.groupby(["task", "name"], sort=False)
    table = groups.agg(
        parameters=("trained", "first"), mean=("value", "mean"), sd=("value", "std"), n=("value", "size"),
        n_test=(counted, "first"),
    ).reset_index()  # fmt: skip
    return table.assign(family=table["name"].map(family))[columns]


def front(table: pd.DataFrame, larger: bool = True) -> pd.DataFrame:
    """Return the rows of `points` that no row with as few or fewer parameters equals or beats, by parameters.

    Only rows with the most seeds count: the best of many single runs is a lucky one. `larger`: whether a larger mean is the
    better one.
    """
    sign = 1 if larger else -1
    table = table[table["n"] == table["n"].max()]
    ordered = table.assign(score=sign * table["mean"]).sort_values(["parameters", "score"], ascending=[True, False])
    best = ordered["score"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["score"] > best].drop(columns="score")


def on_front(records: pd.DataFrame, seed: int) -> list[str]:
    """Return the settings on the front of one task's **validation** accuracies with this seed, each at its best rate."""
    first = at_best_rates(records[records["seed"] == seed], seed) if len(records) else records
    return front(points(first, "val"))["name"].tolist() if len(first) else []


def times_fewer(table: pd.DataFrame, against: str = "LoRA") -> pd.DataFrame:
    """Return for each setting of a family the smallest other setting that is at least as accurate, and how many times smaller.

    Columns: name, parameters, mean (of the family's setting), smaller, its parameters and mean, times. By means alone: what
    chance does to the least of many is not in it, so it flatters the side with more settings.
    """
    columns = ["name", "parameters", "mean", "smaller", "smaller parameters", "smaller mean", "times"]
    rows, others = [], table[table["family"] != against]
    for row in table[table["family"] == against].sort_values("parameters").itertuples():
        enough = others[others["mean"] >= row.mean].sort_values("parameters")
        best = enough.iloc[0] if len(enough) else pd.Series({"name": "-", "parameters": np.nan, "mean": np.nan})
        ours, theirs = (row.name, row.parameters, row.mean), (best["name"], best["parameters"], best["mean"])
        rows.append((*ours, *theirs, row.parameters / best["parameters"]))
    return pd.DataFrame(rows, columns=columns)


def differences(records: pd.DataFrame, sentence: Sentence, metric: str = "test") -> pd.DataFrame:
    """Return `paired` of a sentence, its margin added: a row a task, positive where the sentence holds."""
    names = records.assign(method=records["method"].map(named))
    pairs = paired(names, sentence.method, sentence.against, metric)
    return pairs.assign(**{column: pairs[column] + sentence.margin for column in ("difference", "low", "high")})


def sizes_of(records: pd.DataFrame, sentence: Sentence) -> tuple[int, int]:
    """Return the trained parameters of both sides of a sentence, as the records have them."""
    names = records["method"].map(named)
    return tuple(int(records.loc[names == name, "trained"].iloc[0]) for name in (sentence.method, sentence.against))


def hill(table: pd.DataFrame, order: str) -> pd.DataFrame:
    """Return the settings of a family by parameters, with the distance of each mean from the family's best."""
    rows = table[table["family"] == order].sort_values("parameters")
    return rows.assign(below=rows["mean"].max() - rows["mean"])
