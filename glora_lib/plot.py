"""Figures: arrays and tables in, a matplotlib Figure out; `save` puts it where its profile keeps figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from glora_lib.paths import ROOT
from glora_lib.profile import Profile
from glora_lib.space import TENSORS, Config, forms

# dark to light, so that lines and bars stay apart in grey; markers tell them apart a second time
GREYSAFE = ("#1b2a41", "#b5442e", "#3d7ea6", "#e0a458", "#8aa29e")
MARKERS = ("o", "s", "^", "D", "v")
HATCHES = ("", "//", "..", "xx", "--")


def save(figure: Figure, name: str, profile: Profile) -> Path:
    """Write the figure as `<name>.png` to the profile's folder; return the path."""
    path = ROOT / profile.figures / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
    return path


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
    return _finish(figure)


def panels(
    curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], *, x: str, y: str, columns: int = 3
) -> Figure:
    """Return a panel per name of `curves`, each with the lines that `lines` draws, x doubling; one legend for all."""
    rows = -(-len(curves) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.7 * rows), squeeze=False)
    for axes, (title, panel) in zip(grid.flat, curves.items(), strict=False):
        for number, (name, (xs, ys)) in enumerate(panel.items()):
            style = {"color": GREYSAFE[number % 5], "marker": MARKERS[number % 5], "markersize": 4, "linewidth": 1.4}
            axes.plot(xs, ys, label=name, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(xs, xs)
        axes.set(title=title, xlabel=x, ylabel=y)
    for axes in grid.flat[len(curves) :]:
        axes.axis("off")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
    return _finish(figure)


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
    return _finish(figure)


def shares(table: pd.DataFrame, *, label: str, x: str) -> Figure:
    """Return a dot for every row's `share`, beside a grey bar from `low` to `high` where chance would put it."""
    figure, axes = plt.subplots(figsize=(7, 0.28 * len(table) + 1))
    places = np.arange(len(table))[::-1]
    axes.barh(places, table["high"] - table["low"], left=table["low"], height=0.7, color="0.85", label="random, 95 %")
    axes.plot(table["share"], places, "o", color=GREYSAFE[0], markersize=5, label="found")
    axes.set(yticks=places, yticklabels=table[label], xlabel=x, xlim=(0, None))
    axes.legend(frameon=False, loc="lower right")
    return _finish(figure)


def bars(table: pd.DataFrame, *, x: str, y: str, hue: str, error: str, ylabel: str) -> Figure:
    """Return bars grouped by `x`, one pattern per `hue`, with `error` (a standard deviation) as whiskers."""
    groups, kinds = list(dict.fromkeys(table[x])), list(dict.fromkeys(table[hue]))
    figure, axes = plt.subplots(figsize=(2 + 1.9 * len(groups), 4))
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        rows = table[table[hue] == kind].set_index(x).reindex(groups)
        places = np.arange(len(groups)) + (number - (len(kinds) - 1) / 2) * width
        style = {"color": GREYSAFE[number % 5], "hatch": HATCHES[number % 5], "edgecolor": "white"}
        axes.bar(places, rows[y], width, yerr=rows[error].fillna(0), label=kind, capsize=3, **style)
    axes.set(xticks=np.arange(len(groups)), xticklabels=groups, ylabel=ylabel)
    axes.legend(frameon=False, ncols=len(kinds), loc="lower center", bbox_to_anchor=(0.5, 1))
    return _finish(figure)


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
    return _finish(figure, spines=False)


def interval_panels(table: pd.DataFrame, *, panel: str, label: str, value: str, low: str, high: str, x: str) -> Figure:
    """Return a panel for every `panel`, up to five abreast: a dot and its interval for every `label`, and a line at 0."""
    names, labels = list(dict.fromkeys(table[panel])), list(dict.fromkeys(table[label]))
    abreast = max(1, min(5, len(names)))
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
    grid[0, 0].invert_yaxis()
    figure.supxlabel(x, fontsize=10)
    return _finish(figure)


def generations(search: Sequence[Mapping], random_best: Sequence[float] | None = None, *, n: int) -> Figure:
    """Return every subnet of a search as a dot, a column a generation, with the best so far.

    Args:
        search: one mapping a generation with "val", the accuracies of its subnets (fractions), and, unless all are exact,
            "exact": False where scoring was stopped and the accuracy is only known to lie below; drawn as a tick pointing down.
        random_best: the best so far of a random search after as many evaluations, at each generation.
        n: images that an accuracy was measured on.
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    jitter = np.random.default_rng(0)
    best = np.maximum.accumulate([max(generation["val"], default=0) for generation in search])
    for number, generation in enumerate(search):
        val = 100 * np.array(generation["val"])
        exact = np.array(generation.get("exact", [True] * len(val)), dtype=bool)
        places = number + jitter.uniform(-0.25, 0.25, len(val))
        axes.scatter(places[exact], val[exact], s=10, color=GREYSAFE[4], label=None if number else "a subnet")
        label = "stopped: lies below" if number == 1 else None
        axes.scatter(places[~exact], val[~exact], s=24, marker=7, color=GREYSAFE[4], alpha=0.5, linewidths=0, label=label)
    axes.plot(100 * best, color=GREYSAFE[0], marker="o", label="evolution, best so far")
    if random_best is not None:
        axes.plot(
            100 * np.array(random_best), color=GREYSAFE[1], marker="s", linestyle="--", label="random search, best so far"
        )
    axes.set(xlabel="generation (0 = random start)", ylabel=f"top-1 on val (%), n = {n}", xticks=range(len(search)))
    axes.legend(frameon=False, loc="lower right")
    return _finish(figure)


def embeddings(pictures: Mapping[tuple[str, str], np.ndarray], labels: np.ndarray, classes: Sequence[int]) -> Figure:
    """Return a grid of pictures, keyed by (row, column): points in two dimensions, a digit a class."""
    rows, columns = (list(dict.fromkeys(key[place] for key in pictures)) for place in (0, 1))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(3.2 * len(columns), 3.2 * len(rows)), squeeze=False)
    colors = sns.color_palette("viridis", len(classes))
    for (row, column), points in pictures.items():
        panel = axes[rows.index(row)][columns.index(column)]
        for number, color in enumerate(colors):
            own = points[labels == number]
            panel.scatter(own[:, 0], own[:, 1], s=14, color=color, marker=f"${number}$", linewidths=0.2)
        panel.set(xticks=[], yticks=[], title=column if row == rows[0] else "", ylabel=row if column == columns[0] else "")
    return _finish(figure)


def configuration(config: Config, ranks: Sequence[int]) -> Figure:
    """Return a heatmap of a configuration: a row a support tensor, a column a layer, darker for more parameters."""
    order = tuple(reversed(forms("A", sorted(ranks, reverse=True)))) + ()
    names = list(config)
    grid = np.array([[order.index(getattr(config[name], tensor)) for name in names] for tensor in TENSORS])
    figure, axes = plt.subplots(figsize=(0.24 * len(names) + 2.5, 3.2))
    colors = sns.color_palette("Greys", len(order))
    sns.heatmap(
        grid, cmap=colors, vmin=-0.5, vmax=len(order) - 0.5, linewidths=0.4, linecolor="white", ax=axes, cbar_kws={"pad": 0.02}
    )
    axes.collections[0].colorbar.set_ticks(range(len(order)), labels=order)
    short = [name.replace("blocks.", "") for name in names]
    axes.set_xticks(np.arange(len(names)) + 0.5, short, rotation=90, fontsize=7)
    axes.set_yticks(np.arange(len(TENSORS)) + 0.5, TENSORS, rotation=0)
    return _finish(figure, spines=False)


def tally(counts: pd.Series, *, x: str) -> Figure:
    """Return one horizontal bar for every entry of `counts`, with its number."""
    figure, axes = plt.subplots(figsize=(7, 0.45 * len(counts) + 1))
    drawn = axes.barh(counts.index[::-1], counts.to_numpy()[::-1], color=GREYSAFE[2])
    axes.bar_label(drawn, padding=3)
    axes.set(xlabel=x)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _finish(figure)


def contact_sheet(tasks: Sequence, columns: int = 10) -> Figure:
    """Return the first training images of every task, a row a task, with their class above."""
    figure, grid = plt.subplots(len(tasks), columns, figsize=(1.1 * columns, 1.45 * len(tasks)), squeeze=False)
    for row, task in zip(grid, tasks, strict=True):
        for axes, image, label in zip(row, task.train.raw, task.train.labels, strict=False):
            axes.imshow(image.permute(1, 2, 0).numpy())
            axes.set_title(task.class_names[int(label)][:20], fontsize=6)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(task.name, fontsize=8)
    return _finish(figure, spines=False)


def storage(d2: int, d1: int, rank: int) -> Figure:
    """Return the factors Xd (d2, R) and Xu (R, d1) as grids, shaded and named by the smallest form that uses an entry."""
    forms_by_size = ["scalar", "vector", *(f"lora{r}" for r in range(1, rank + 1))]
    down = np.tile(np.arange(rank) + 2, (d2, 1))
    down[:, 0], down[0, 0] = 1, 0
    up = np.tile(np.arange(rank)[:, None] + 2, (1, d1))
    figure, grid = plt.subplots(
        1, 2, figsize=(1 + 0.72 * (rank + d1), 0.5 + 0.55 * d2), gridspec_kw={"width_ratios": [rank, d1]}
    )
    colors = sns.color_palette("Greys_r", len(forms_by_size) + 2)[: len(forms_by_size)]
    for axes, name, tiles in zip(grid, ("Xd", "Xu"), (down, up), strict=True):
        style = {"cmap": colors, "vmin": -0.5, "vmax": len(colors) - 0.5, "linewidths": 1.5, "square": True, "cbar": False}
        sns.heatmap(tiles, annot=np.array(forms_by_size)[tiles], fmt="", annot_kws={"fontsize": 8}, ax=axes, **style)
        axes.set(xticks=[], yticks=[], title=f"{name}  {tiles.shape}")
    return _finish(figure, spines=False)


def matrices(panels: Mapping[str, pd.DataFrame], *, columns: int = 4, fmt: str = ".1f", signed: bool = False) -> Figure:
    """Return small matrices with their numbers in the cells, a panel a name; `signed` colours around zero, alike in all."""
    rows = -(-len(panels) // columns)
    high, wide = next(iter(panels.values())).shape
    figure, grid = plt.subplots(rows, columns, figsize=(0.62 * wide * columns + 1, 0.5 * high * rows + 0.9), squeeze=False)
    largest = max(np.abs(panel.to_numpy()).max() for panel in panels.values())
    for axes, (name, panel) in zip(grid.flat, panels.items(), strict=True):
        scale = {"cmap": "PuOr", "vmin": -1.4 * largest, "vmax": 1.4 * largest} if signed else {"cmap": "Greys", "robust": True}
        sns.heatmap(panel, annot=True, fmt=fmt, annot_kws={"fontsize": 8}, linewidths=1, cbar=False, ax=axes, **scale)
        axes.set_title(name, fontsize=10)
        axes.tick_params(length=0, labelsize=8, rotation=0)
    return _finish(figure, spines=False)


def sizes(samples: Mapping[str, Sequence[int]], marks: Mapping[str, Mapping[str, float]], *, x: str) -> Figure:
    """Return a histogram for every name of `samples`, a row each, with the values of `marks[name]` as labelled lines."""
    figure, grid = plt.subplots(len(samples), 1, figsize=(8, 1.7 * len(samples) + 0.6), sharex=True, squeeze=False)
    ends = [value / 1e6 for name, values in samples.items() for value in (min(values), max(values), *marks[name].values())]
    for axes, (name, values) in zip(grid[:, 0], samples.items(), strict=True):
        axes.hist(np.array(values) / 1e6, bins=50, color=GREYSAFE[4])
        for number, (mark, value) in enumerate(marks[name].items()):
            style = {"color": GREYSAFE[number], "linestyle": ("-", "--", ":")[number % 3], "linewidth": 1.8}
            axes.axvline(value / 1e6, label=f"{mark}: {value / 1e6:.3g} M", **style)
        axes.set(ylabel="subnets", title=f"{name}, n = {len(values):,} random subnets", ylim=(0, None))
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    low, high = 0.3 * min(ends), 1.1 * max(ends)  # the legends stand left of the data
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= tick <= high]
    grid[-1, 0].set(xlabel=x, xscale="log", xlim=(low, high))
    grid[-1, 0].set_xticks(ticks, ticks)
    return _finish(figure)


def _finish(figure: Figure, spines: bool = True) -> Figure:
    if spines:
        sns.despine(figure)
    figure.tight_layout()
    plt.close(figure)  # a notebook shows the figure that a cell returns, once
    return figure
