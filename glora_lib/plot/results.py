"""Figures of results: curves, ratios, bars, tables and intervals from records."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from glora_lib.plot.style import GREYSAFE, HATCHES, MARKERS, finish


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x: str, y: str, title: str = "", log_y: bool = False
) -> Figure:
    """Return a line per name of `curves`, each (x values, y values), with markers."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for number, (name, (xs, ys)) in enumerate(curves.items()):
        style = {"color": GREYSAFE[number % 5], "marker": MARKERS[number % 5], "linestyle": "--" if number >= 5 else "-"}
        axes.plot(xs, ys, label=name, markersize=4, linewidth=1.6, **style)
    axes.set(xlabel=x, ylabel=y, title=title, yscale="log" if log_y else "linear")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return finish(figure)


def panels(
    curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], *, x: str, y: str, columns: int = 3, from_zero: bool = False
) -> Figure:
    """Return a panel per name of `curves`, x doubling, with one legend for all.

    A line is (x values, y values), or (x values, y values, standard deviations), which are drawn as whiskers; then the lines
    stand a little apart.
    """
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.7 * rows), squeeze=False)
    for axes, (title, panel) in zip(grid.flat, curves.items(), strict=False):
        for number, (name, (xs, ys, *spread)) in enumerate(panel.items()):
            style = {"color": GREYSAFE[number % 5], "marker": MARKERS[number % 5], "markersize": 4, "linewidth": 1.4}
            apart = 2 ** (0.07 * (number - (len(panel) - 1) / 2)) if spread else 1
            whiskers = {"yerr": np.nan_to_num(spread[0]), "elinewidth": 0.7, "capsize": 1.5} if spread else {}
            axes.errorbar(np.multiply(xs, apart), ys, label=name, **whiskers, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(xs, xs)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel=x, ylabel=y, **({"ylim": (0, None)} if from_zero else {}))
    for axes in grid.flat[len(curves) :]:
        axes.axis("off")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
    return finish(figure)


def intervals(
    table: pd.DataFrame, *, label: str, value: str, low: str, high: str, x: str, reference: float | None = None
) -> Figure:
    """Return a dot with an interval for every row of `table`, one under another."""
    figure, axes = plt.subplots(figsize=(7, 0.45 * len(table) + 1))
    places = np.arange(len(table))[::-1]
    spread = np.abs(table[[low, high]].to_numpy().T - table[value].to_numpy())
    axes.errorbar(table[value], places, xerr=spread, fmt="o", color=GREYSAFE[0], capsize=4)
    if reference is not None:
        axes.axvline(reference, color=GREYSAFE[1], linestyle="--", linewidth=1)
    axes.set(yticks=places, yticklabels=table[label], xlabel=x)
    return finish(figure)


def ratios(table: pd.DataFrame, *, label: str, hue: str, x: str) -> Figure:
    """Return a row for every `label` with a dot for every `hue`: columns ratio (the dot), low and high (the whisker)."""
    labels, kinds = list(dict.fromkeys(table[label])), list(dict.fromkeys(table[hue]))
    figure, axes = plt.subplots(figsize=(7.5, 0.32 * len(labels) + 1.4))
    axes.axvline(1, color="0.4", linestyle="--", linewidth=1)
    for number, value in enumerate(kinds):
        rows = table[table[hue] == value].set_index(label).reindex(labels)
        places = np.arange(len(labels))[::-1] + ((len(kinds) - 1) / 2 - number) * 0.24
        spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["ratio"].to_numpy())
        style = {"color": GREYSAFE[number % 5], "marker": MARKERS[number % 5], "markersize": 4, "linewidth": 1}
        axes.errorbar(rows["ratio"], places, xerr=spread, fmt=" ", label=f"{hue} {value}", **style)
    axes.set(yticks=np.arange(len(labels))[::-1], yticklabels=labels, xlabel=x, xlim=(0, None))
    axes.legend(frameon=False, ncols=len(kinds), loc="lower center", bbox_to_anchor=(0.5, 1))
    return finish(figure)


def shares(table: pd.DataFrame, *, label: str, x: str) -> Figure:
    """Return a dot for every row's `share`, beside a grey bar from `low` to `high` where chance would put it."""
    figure, axes = plt.subplots(figsize=(7, 0.28 * len(table) + 1))
    places = np.arange(len(table))[::-1]
    axes.barh(places, table["high"] - table["low"], left=table["low"], height=0.7, color="0.85", label="random, 95 %")
    axes.plot(table["share"], places, "o", color=GREYSAFE[0], markersize=5, label="found")
    axes.set(yticks=places, yticklabels=table[label], xlabel=x, xlim=(0, None))
    axes.legend(frameon=False, loc="lower left")
    return finish(figure)


def bars(table: pd.DataFrame, *, x: str, y: str, hue: str, error: str, ylabel: str) -> Figure:
    """Return bars grouped by `x`, one pattern per `hue`, with `error` (a standard deviation) as whiskers."""
    groups, kinds = list(dict.fromkeys(table[x])), list(dict.fromkeys(table[hue]))
    figure, axes = plt.subplots(figsize=(2 + 1.4 * len(groups), 4))
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        rows = table[table[hue] == kind].set_index(x).reindex(groups)
        places = np.arange(len(groups)) + (number - (len(kinds) - 1) / 2) * width
        style = {"color": GREYSAFE[number % 5], "hatch": HATCHES[number % 5], "edgecolor": "white"}
        axes.bar(places, rows[y], width, yerr=rows[error].fillna(0), label=kind, capsize=3, **style)
    axes.set_xticks(np.arange(len(groups)), groups, fontsize=8)
    axes.set(ylabel=ylabel)
    axes.legend(frameon=False, ncols=len(kinds), loc="lower center", bbox_to_anchor=(0.5, 1))
    return finish(figure)


def heat_table(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Return the numbers of `table` in cells, a row a method, a column a task, shaded in grey within each column.

    The columns are (group, task) pairs, as from `table.means`; a line divides the groups. White is a column's lowest number,
    the darkest grey its highest; a cell without a number is hatched.
    """
    rows, columns = table.shape
    values = table.to_numpy(dtype=float)
    low, high = (f(np.where(np.isnan(values), fill, values), axis=0) for f, fill in ((np.min, np.inf), (np.max, -np.inf)))
    shade = (values - low) / np.maximum(high - low, 1e-9)
    figure, axes = plt.subplots(figsize=(1.8 + 0.68 * columns, 1.5 + 0.3 * rows))
    for (row, column), value in np.ndenumerate(values):
        gap = np.isnan(value)
        style = {"facecolor": "white", "hatch": "///"} if gap else {"facecolor": str(1 - 0.45 * shade[row, column])}
        axes.add_patch(plt.Rectangle((column, row), 1, 1, edgecolor="0.8", linewidth=0.5, **style))
        axes.text(column + 0.5, row + 0.5, "" if gap else f"{value:.1f}", ha="center", va="center", fontsize=8)
    groups = table.columns.get_level_values(0)
    for column, group in enumerate(groups):
        if column == 0 or groups[column - 1] != group:
            axes.axvline(column, color="black", linewidth=1.5)
            axes.text(column + 0.08, -0.15, group, ha="left", va="bottom", fontsize=9, style="italic")
    axes.set(xlim=(0, columns), ylim=(rows, 0), xlabel=title)
    axes.set_yticks(np.arange(rows) + 0.5, table.index)
    axes.set_xticks(np.arange(columns) + 0.5, table.columns.get_level_values(1), rotation=40, ha="right", fontsize=8)
    axes.tick_params(length=0)
    return finish(figure, spines=False)


def interval_panels(table: pd.DataFrame, *, panel: str, label: str, value: str, low: str, high: str, x: str) -> Figure:
    """Return a panel for every `panel`, up to six abreast: a dot and its interval for every `label`, and a line at 0."""
    names, labels = list(dict.fromkeys(table[panel])), list(dict.fromkeys(table[label]))
    abreast = max(1, min(6, len(names)))
    rows = max(1, -(-len(names) // abreast))
    size = (1.6 + 1.9 * abreast, (0.6 + 0.22 * len(labels)) * rows + 0.5)
    figure, grid = plt.subplots(rows, abreast, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        of_panel = table[table[panel] == name].set_index(label).reindex(labels)
        spread = np.abs(of_panel[[low, high]].to_numpy(dtype=float).T - of_panel[value].to_numpy(dtype=float))
        axes.axvline(0, color="0.4", linestyle="--", linewidth=1)
        axes.errorbar(of_panel[value], np.arange(len(labels)), xerr=spread, fmt="o", color=GREYSAFE[0], markersize=4, capsize=2)
        axes.set_title(name, fontsize=9)
        axes.set_yticks(np.arange(len(labels)), labels, fontsize=8)
    for axes in grid.flat[max(0, len(names) - abreast) : len(names)]:  # no panel below, though perhaps an empty place
        axes.tick_params(labelbottom=True)
    grid[0, 0].invert_yaxis()
    figure.supxlabel(x, fontsize=10)
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
