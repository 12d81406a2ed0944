"""Figures of a search: its generations, and what it found beside random choices."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from glora_lib.plot.style import GREYSAFE, MARKERS, finish


def beside_random(table: pd.DataFrame, *, x: str, hue: str, y: str) -> Figure:
    """Return a dot with its interval for every `x` and `hue`, on a grey bar where the mean of as many random ones would lie.

    Columns beside those: mean, half (of the interval), random, random_half, n.
    """
    groups, kinds = list(dict.fromkeys(table[x])), list(dict.fromkeys(table[hue]))
    figure, axes = plt.subplots(figsize=(2 + 1.5 * len(groups), 4))
    for number, kind in enumerate(kinds):
        rows = table[table[hue] == kind].set_index(x).reindex(groups)
        places = np.arange(len(groups)) + (number - (len(kinds) - 1) / 2) * 0.26
        label = "as many random ones, 95 %" if number == 0 else None
        bottom = rows["random"] - rows["random_half"]
        axes.bar(places, 2 * rows["random_half"], 0.2, bottom=bottom, color="0.82", label=label)
        style = {"color": GREYSAFE[number % 5], "marker": MARKERS[number % 5], "linestyle": "", "capsize": 3, "markersize": 5}
        axes.errorbar(places, rows["mean"], yerr=rows["half"], label=f"{kind}, n = {rows['n'].iloc[0]:.0f}", **style)
    axes.set_xticks(np.arange(len(groups)), groups)
    axes.set(ylabel=y, ylim=(0, None))
    axes.legend(frameon=False, ncols=len(kinds) + 1, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    return finish(figure)


def generations(search: Sequence[Mapping], random_best: Sequence[float] | None = None, *, n: int) -> Figure:
    """Return every subnet of a search as a dot, a column a generation, with the best so far.

    Args:
        search: one mapping a generation with "val", the accuracies of its subnets (fractions), and, unless all are exact,
            "exact": False where scoring was stopped and the accuracy is only known to lie below; drawn as a tick pointing down.
        random_best: the best so far of a random search after as many evaluations, at each generation.
        n: images that an accuracy was measured on.
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    jitter, said = np.random.default_rng(0), False
    best = np.maximum.accumulate([max(generation["val"], default=0) for generation in search])
    for number, generation in enumerate(search):
        val = 100 * np.array(generation["val"])
        exact = np.array(generation.get("exact", [True] * len(val)), dtype=bool)
        places = number + jitter.uniform(-0.25, 0.25, len(val))
        axes.scatter(places[exact], val[exact], s=10, color=GREYSAFE[4], label=None if number else "a subnet")
        if not exact.all():
            label, said = (None if said else "stopped: lies below"), True
            axes.scatter(places[~exact], val[~exact], s=24, marker=7, color=GREYSAFE[4], alpha=0.5, linewidths=0, label=label)
    axes.plot(100 * best, color=GREYSAFE[0], marker="o", label="evolution, best so far")
    if random_best is not None:
        axes.plot(
            100 * np.array(random_best), color=GREYSAFE[1], marker="s", linestyle="--", label="random search, best so far"
        )
    axes.set(xlabel="generation (0 = random start)", ylabel=f"top-1 on val (%), n = {n}", xticks=range(len(search)))
    axes.legend(frameon=False, loc="lower right")
    return finish(figure)
