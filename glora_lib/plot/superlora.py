"""Figures of SuperLoRA: what units look like, how weights are grouped, what F does, accuracy against parameters."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from glora_lib.plot.style import GREYSAFE, MARKERS, finish

MARKS = {  # family -> marker, colour, whether filled: thirteen that stay apart in grey
    "dense": ("*", 0, True),
    "dense, projected": ("*", 0, False),
    "LoRA": ("o", 1, True),
    "2D": ("s", 2, True),
    "2D, reshaped": ("D", 2, False),
    "2D, projected": ("P", 0, True),
    "3D": ("^", 3, True),
    "4D": ("v", 3, False),
    "5D": ("<", 4, True),
    "LoHa": ("h", 1, False),
    "LoKr": ("X", 4, False),
    "LoNKr": ("d", 4, True),
    "LoTR": (">", 1, True),
    "source": ("*", 4, False),
}


def tensors(panels: Mapping[str, np.ndarray], *, columns: int = 4, title: str = "{name}") -> Figure:
    """Return one picture a matrix, each scaled to its own largest entry: orange is negative, purple is positive."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(2.5 * columns, 2.6 * rows), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (name, panel) in zip(grid.flat, panels.items(), strict=False):
        largest = np.abs(panel).max() or 1
        axes.imshow(panel, cmap="PuOr", vmin=-largest, vmax=largest, interpolation="nearest", aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.set_title(title.format(name=name), fontsize=8)
    return finish(figure, spines=False)


def groups(panels: Mapping[str, np.ndarray], weights: int) -> Figure:
    """Return how rows of weights fall into groups: a panel a grouping, a number a group, a line between weights."""
    figure, grid = plt.subplots(1, len(panels), figsize=(1.5 * len(panels) + 0.6, 3.6), squeeze=False)
    for axes, (name, owner) in zip(grid.flat, panels.items(), strict=True):
        axes.imshow(owner % 2 + 0.35 * (owner % 3), cmap="Greys", vmin=-0.3, vmax=2.6, interpolation="nearest", aspect="auto")
        height = owner.shape[0] / weights
        for place in range(1, weights):
            axes.axhline(place * height - 0.5, color="white", linewidth=1.2)
        for group in np.unique(owner):
            rows, columns = np.nonzero(owner == group)
            axes.text(columns.mean(), rows.mean(), str(group), ha="center", va="center", fontsize=7, color=GREYSAFE[1])
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, fontsize=8)
    grid[0, 0].set_ylabel(f"{weights} weights, one under another", fontsize=8)
    return finish(figure, spines=False)


def fronts(
    tables: Mapping[str, pd.DataFrame], frontier: Mapping[str, pd.DataFrame], *, y: str = "", columns: int = 1,
    x: str = "trained parameters, head excluded",
) -> Figure:  # fmt: skip
    """Return a panel per name: every point of `measures.efficiency.points`, whiskers of one sd, the front a line.

    Parameters are on a logarithmic axis; settings with fewer seeds than others are pale, without whiskers. A table needs the
    columns family, parameters, mean, sd and n. Without `y` a panel's name is what its y axis shows.
    """
    columns = min(columns, len(tables))
    rows = -(-len(tables) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(7.6 * columns, 4.6 * rows), squeeze=False)
    for axes, (title, table) in zip(grid.flat, tables.items(), strict=False):
        line, most = frontier[title], table["n"].max()
        axes.step(line["parameters"], line["mean"], where="post", color="0.6", linewidth=1, label="front of the means")
        for family, part in table.groupby("family", sort=False):
            marker, number, filled = MARKS[family]
            color = GREYSAFE[number]
            face, size = color if filled else "white", 8 if marker == "*" else 6
            full, few = part[part["n"] == most], part[part["n"] < most]
            shared = {"marker": marker, "color": color, "linestyle": "none", "markerfacecolor": face, "markersize": size}
            axes.plot(few["parameters"], few["mean"], alpha=0.4, **shared)
            axes.plot([], [], label=family, **shared)
            axes.errorbar(full["parameters"], full["mean"], yerr=full["sd"].fillna(0), elinewidth=0.8, capsize=2, **shared)
        pale = "/".join(map(str, sorted(set(table["n"]) - {most})))
        axes.set(xscale="log", xlabel=x, ylabel=y or title)
        few = table["parameters"].max() < 100 * max(1, table["parameters"].min())  # so few decades that tens alone say little
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        seeds = f"n = {most} seeds, whiskers: sd{f'; pale: {pale}' if pale else ''}"
        axes.set_title(f"{title}, {seeds}" if y else seeds, fontsize=9)
    for axes in grid.flat[len(tables) :]:
        axes.axis("off")
    legends = [axes.get_legend_handles_labels() for axes in grid.flat]
    handles = {name: handle for found in legends for handle, name in zip(*found, strict=True)}
    figure.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(figure)


def strips(rows: Mapping[str, np.ndarray], names: Sequence[str] = ()) -> Figure:
    """Return pictures side by side, (height, width, 3) uint8, a row a name; `names` stand above equal parts of the first."""
    figure, grid = plt.subplots(len(rows), 1, figsize=(5.2, 0.56 * len(rows)), squeeze=False)
    for axes, (name, strip) in zip(grid[:, 0], rows.items(), strict=True):
        axes.imshow(strip, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    for place, name in enumerate(names):
        grid[0, 0].text((place + 0.5) / len(names), 1.08, name, transform=grid[0, 0].transAxes, ha="center", fontsize=7)
    figure.subplots_adjust(hspace=0.05)
    return finish(figure, spines=False)


def spectra(values: Mapping[str, Sequence[float]], *, y: str) -> Figure:
    """Return a line per name: singular values in descending order, as shares of the first, down to a thousandth."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for number, (name, line) in enumerate(values.items()):
        line = np.asarray(line) / max(line)
        kept = max(1, int((line > 1e-3).sum()))
        again = {"linestyle": "--", "markerfacecolor": "white"} if number >= 5 else {}
        style = {"color": GREYSAFE[number % 5], "marker": MARKERS[number % 5], "markersize": 5, "linewidth": 1.4} | again
        marked = [place for place in range(kept) if place < 8 or place % 8 == 0 or place == kept - 1]
        axes.plot(np.arange(1, kept + 1), line[:kept], markevery=marked, label=f"{name}: {kept}", **style)
    axes.set(xscale="log", yscale="log", xlabel="number of the singular value", ylabel=y)
    axes.legend(frameon=False, fontsize=8, title="setting: rank", loc="upper left", bbox_to_anchor=(1.01, 1))
    return finish(figure)
