"""Figures of results: curves, ratios, bars, tables and intervals from records."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from glora_lib.plot.style import GREYSAFE, MARKERS, finish, look, looks


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x: str, y: str, title: str = "", log_y: bool = False
) -> Figure:
    """Return a line per name of `curves`, each (x values, y values), with markers."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for number, (name, (xs, ys)) in enumerate(curves.items()):
        color, marker, _ = look(name, number)
        style = {"color": color, "marker": marker} | ({"linestyle": "--", "markerfacecolor": "white"} if number >= 5 else {})
        axes.plot(xs, ys, label=name, markersize=4, linewidth=1.6, **style)
    axes.set(xlabel=x, ylabel=y, title=title, yscale="log" if log_y else "linear")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return finish(figure)


def panels(
    curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], *, x: str, y: str, columns: int = 3, from_zero: bool = False
) -> Figure:
    """Return a panel per name of `curves` with one legend for all; x doubles, or with `from_zero` both axes start at zero.

    A line is (x values, y values), or (x values, y values, standard deviations), which are drawn as whiskers; then the lines
    stand a little apart. Without `x` a panel's name is what its x axis shows.
    """
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.7 * rows), squeeze=False)
    for axes, (title, panel) in zip(grid.flat, curves.items(), strict=False):
        for number, (name, (xs, ys, *spread)) in enumerate(panel.items()):
            color, marker, _ = look(name, number)
            style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.4}
            apart = 2 ** (0.07 * (number - (len(panel) - 1) / 2)) if spread else 1
            whiskers = {"yerr": np.nan_to_num(spread[0]), "elinewidth": 0.7, "capsize": 1.5} if spread else {}
            axes.errorbar(np.multiply(xs, apart), ys, label=name, **whiskers, **style)
        if from_zero:
            axes.set(xlim=(0, 1.05 * max(xs)), ylim=(0, 1.1 * axes.dataLim.y1))
        else:
            axes.set_xscale("log", base=2)
            axes.set_xticks(xs, xs)
        axes.set_title(title if x else "", fontsize=9)
        axes.set(xlabel=x or title, ylabel=y)
    for axes in grid.flat[len(curves) :]:
        axes.axis("off")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
    return finish(figure)


def intervals(
    table: pd.DataFrame, *, label: str, value: str, low: str, high: str, x: str, reference: float | None = None
) -> Figure:
    """Return a dot with an interval for every row of `table`, one under another."""
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(table) + 1.2))
    places = np.arange(len(table))[::-1]
    spread = np.abs(table[[low, high]].to_numpy().T - table[value].to_numpy())
    axes.errorbar(table[value], places, xerr=spread, fmt="o", color=GREYSAFE[0], capsize=4)
    if reference is not None:
        axes.axvline(reference, color=GREYSAFE[1], linestyle="--", linewidth=1)
    axes.set(yticks=places, yticklabels=table[label], xlabel=x, ylim=(-0.6, len(table) - 0.4))
    return finish(figure)


def ratios(table: pd.DataFrame, *, label: str, hue: str, x: str, group: str = "") -> Figure:
    """Return a row for every `label` with a dot for every `hue`: columns ratio (the dot), low and high (the whisker).

    With `group` a line parts the rows of one value from those of the next, and names it at the right.
    """
    labels, kinds = list(dict.fromkeys(table[label])), list(dict.fromkeys(table[hue]))
    figure, axes = plt.subplots(figsize=(7.5, 0.32 * len(labels) + 1.4))
    axes.axvline(1, color="0.4", linestyle="--", linewidth=1)
    for number, value in enumerate(kinds):
        rows = table[table[hue] == value].set_index(label).reindex(labels)
        places = np.arange(len(labels))[::-1] + ((len(kinds) - 1) / 2 - number) * 0.24
        spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["ratio"].to_numpy())
        style = {"color": GREYSAFE[number % 5], "marker": MARKERS[number % 5], "markersize": 4, "linewidth": 1}
        axes.errorbar(rows["ratio"], places, xerr=spread, fmt=" ", label=f"{hue} {value}", **style)
    if group:
        kind_of = table.drop_duplicates(label).set_index(label)[group].reindex(labels).tolist()
        for row in [0, *(row for row in range(1, len(labels)) if kind_of[row] != kind_of[row - 1])]:
            axes.axhline(len(labels) - row - 0.5, color="0.8", linewidth=0.8)
            axes.text(
                1.01, len(labels) - row - 1, kind_of[row], transform=axes.get_yaxis_transform(), fontsize=8, style="italic"
            )
    axes.set(yticks=np.arange(len(labels))[::-1], yticklabels=labels, xlabel=x, xlim=(0, None), ylim=(-0.7, len(labels) - 0.3))
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
    for number, (kind, (color, _, hatch)) in enumerate(zip(kinds, looks(kinds), strict=True)):
        rows = table[table[hue] == kind].set_index(x).reindex(groups)
        places = np.arange(len(groups)) + (number - (len(kinds) - 1) / 2) * width
        style = {"color": color, "hatch": hatch, "edgecolor": "white", "ecolor": "0.4"}
        axes.bar(places, rows[y], width, yerr=rows[error], label=kind, capsize=3, **style)
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


def differences(
    table: pd.DataFrame, means: pd.DataFrame, *, by: str, x: str, limit: float = 15, names: Sequence[str] = ()
) -> Figure:
    """Return a row for every value of `by`: a dot a task, hollow where it is a single seed, and below it the mean's interval.

    Args:
        table: as of `table.paired`, with the column `by`: difference and n (seeds).
        means: as of `table.over_tasks`: by, difference, low and high; a row without one has dots alone.
        limit: points from zero at which the axis is cut; what lies beyond is an arrow at the edge.
        names: the rows in their order, if not that of `means`.
    """
    rows = list(names) or means[by].tolist()
    figure, axes = plt.subplots(figsize=(8.5, 0.42 * len(rows) + 1.3))
    axes.axvline(0, color="0.4", linestyle="--", linewidth=1)
    for place, name in zip(np.arange(len(rows))[::-1], rows, strict=True):
        for row in table[table[by] == name].itertuples():
            beyond, single = abs(row.difference) > limit, row.n == 1
            marker = (">" if row.difference > 0 else "<") if beyond else "o"
            style = {"markersize": 5, "markerfacecolor": "none" if single else "0.65", "markeredgecolor": "0.5"}
            style |= {"zorder": 3 if single else 2}
            axes.plot(np.clip(row.difference, -limit, limit), place + 0.14, marker, clip_on=False, **style)
        if not (means[by] == name).any():
            continue
        mean = means[means[by] == name].iloc[0]
        low, middle, high = (np.clip(mean[part], -limit, limit) for part in ("low", "difference", "high"))
        axes.plot([low, high], [place - 0.2] * 2, color=GREYSAFE[0], linewidth=2)
        for end, marker in ((low, "<"), (high, ">")):
            if abs(end) == limit:
                axes.plot(end, place - 0.2, marker, color=GREYSAFE[0], markersize=5, clip_on=False)
        axes.plot(middle, place - 0.2, "|", color=GREYSAFE[0], markersize=9, markeredgewidth=2)
    axes.set(yticks=np.arange(len(rows))[::-1], yticklabels=rows, xlabel=x, xlim=(-limit, limit), ylim=(-0.6, len(rows) - 0.4))
    marks = [plt.Line2D([], [], **style) for style in (
        {"marker": "o", "linestyle": "", "markerfacecolor": "0.65", "markeredgecolor": "0.5", "label": "a task, several seeds"},
        {"marker": "o", "linestyle": "", "markerfacecolor": "none", "markeredgecolor": "0.5", "label": "one seed"},
        {"marker": ">", "linestyle": "", "markerfacecolor": "0.65", "markeredgecolor": "0.5", "label": "beyond the axis"},
        {"color": GREYSAFE[0], "linewidth": 2, "label": "mean over sources, 95 %"},
    )]  # fmt: skip
    axes.legend(handles=marks, frameon=False, ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    return finish(figure)


def gains(panels: Mapping[str, pd.DataFrame], *, x: str, y: str, shaded: Mapping[str, Sequence[float]]) -> Figure:
    """Return a panel a name, x doubling: differences to a reference by method, GLoRA's with its interval.

    Args:
        panels: columns method, shots, difference, low and high.
        shaded: name -> the values of x that are shaded, where little can be read off any method.
    """
    figure, grid = plt.subplots(1, len(panels), figsize=(2.6 * len(panels) + 0.6, 3.2), sharey=True, squeeze=False)
    for axes, (title, table) in zip(grid[0], panels.items(), strict=True):
        axes.axhline(0, color="0.4", linestyle="--", linewidth=1)
        for value in shaded.get(title, ()):
            axes.axvspan(value / 2**0.5, value * 2**0.5, color="0.9", linewidth=0)
        for number, (name, rows) in enumerate(table.groupby("method", sort=False)):
            color, marker, _ = look(name, number)
            strong = name.lower() == "glora"
            spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["difference"].to_numpy()) if strong else None
            style = {"color": color, "marker": marker, "markersize": 4.5, "capsize": 2, "linewidth": 1.8 if strong else 0.8}
            axes.errorbar(rows["shots"], rows["difference"], yerr=spread, label=name, zorder=3 if strong else 2, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(rows["shots"], rows["shots"])
        axes.set_title(title, fontsize=9)
        axes.set(xlabel=x)
    grid[0, 0].set_ylabel(y)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
    return finish(figure)
