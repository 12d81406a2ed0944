"""Figures that explain: configurations, tasks, features, storage, matrices and sizes."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from glora_lib.glora.space import TENSORS, Config, forms
from glora_lib.plot.style import GREYSAFE, finish


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
    return finish(figure, spines=False)


def tallies(counts: Mapping[str, pd.Series], *, x: str) -> Figure:
    """Return a panel for every name of `counts`, one below another, with a horizontal bar and its number for every entry."""
    heights = [0.3 * len(panel) + 0.55 for panel in counts.values()]
    shape = {"height_ratios": heights}
    figure, grid = plt.subplots(len(counts), 1, figsize=(7, sum(heights) + 0.6), squeeze=False, gridspec_kw=shape)
    for axes, (name, panel) in zip(grid[:, 0], counts.items(), strict=True):
        drawn = axes.barh(panel.index[::-1], panel.to_numpy()[::-1], color=GREYSAFE[2])
        axes.bar_label(drawn, padding=3)
        axes.set_title(f"{name}, n = {panel.sum():,}", loc="left", fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
    grid[-1, 0].set_xlabel(x)
    return finish(figure)


def contact_sheet(tasks: Sequence, columns: int = 10) -> Figure:
    """Return the first training images of every task, a row a task, with their class above."""
    figure, grid = plt.subplots(len(tasks), columns, figsize=(1.1 * columns, 1.45 * len(tasks)), squeeze=False)
    for row, task in zip(grid, tasks, strict=True):
        for axes, image, label in zip(row, task.train.raw, task.train.labels, strict=False):
            axes.imshow(image.permute(1, 2, 0).numpy())
            axes.set_title(task.class_names[int(label)][:20], fontsize=6)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(task.name, fontsize=8)
    return finish(figure, spines=False)


def embeddings(pictures: Mapping[tuple[str, str], np.ndarray], labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Return pictures of points in two dimensions, keyed by (row, column): the first row large.

    A class has a colour of its own, and a digit that stays readable in grey; a legend names them.
    """
    rows, columns = (list(dict.fromkeys(key[place] for key in pictures)) for place in (0, 1))
    heights = [4.2] + [2.2] * (len(rows) - 1)
    size, shape = (3.9 * len(columns), sum(heights)), {"height_ratios": heights}
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, gridspec_kw=shape)
    colors = sns.color_palette("tab10", len(classes))
    for (row, column), points in pictures.items():
        first = row == rows[0]
        panel = axes[rows.index(row)][columns.index(column)]
        for number, color in enumerate(colors):
            own = points[labels == number]
            panel.scatter(own[:, 0], own[:, 1], s=20 if first else 9, color=color, marker=f"${number}$", linewidths=0.2)
        panel.set(xticks=[], yticks=[], title=column if first else "", ylabel=row if column == columns[0] else "")
    marks = [
        plt.Line2D([], [], color=color, marker=f"${number}$", linestyle="", label=classes[number])
        for number, color in enumerate(colors)
    ]
    figure.legend(handles=marks, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return finish(figure)


def layer() -> Figure:
    """Return a schematic of the adapted layer: what is frozen, what each support tensor does, and what comes out (Eq. 10)."""
    figure, axes = plt.subplots(figsize=(9.5, 4.2))
    axes.set(xlim=(0, 19), ylim=(0, 8.4))
    axes.axis("off")

    def box(x: float, y: float, text: str, color: str, width: float = 2.6, height: float = 1.1) -> None:
        axes.add_patch(plt.Rectangle((x, y), width, height, facecolor=color, edgecolor="0.3", linewidth=1))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10)

    def arrow(x0: float, y0: float, x1: float, y1: float) -> None:
        axes.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "color": "0.3", "shrinkA": 0, "shrinkB": 0})

    trained, frozen = "#cfe0ec", "0.85"
    axes.text(0.5, 4.2, "x", fontsize=15, ha="center", va="center")
    box(4.2, 6.4, "W0 (d2, d1)", frozen)
    box(7.6, 6.4, "W0 * A", trained)
    box(11, 6.4, "B", trained)
    axes.text(3.9, 7.9, "weight: scale what is there, add what is new", fontsize=9, style="italic")
    box(4.2, 1.0, "b0 (d2)", frozen, 2.0)
    box(6.8, 1.0, "b0 * D", trained, 2.0)
    box(9.4, 1.0, "E", trained, 2.0)
    box(12, 1.0, "W0 C", trained, 2.0)
    axes.text(
        3.9, 0.3, "bias: scale it, shift it, and what a constant C added to the input would give", fontsize=9, style="italic"
    )
    for x in (7.2, 10.6):
        axes.text(x, 6.95, "+", fontsize=14, ha="center", va="center")
    for x in (6.5, 9.1, 11.7):
        axes.text(x, 1.55, "+", fontsize=14, ha="center", va="center")
    box(7.2, 3.7, "W x + b", "w", 3.2)
    arrow(0.9, 4.25, 7.2, 4.25)
    arrow(8.8, 6.4, 8.8, 4.8)
    arrow(8.8, 2.1, 8.8, 3.7)
    arrow(10.4, 4.25, 14.6, 4.25)
    axes.text(14.9, 4.2, "y\n(after training W and b\nare one plain layer)", fontsize=10, ha="left", va="center", wrap=True)
    axes.text(8.6, 5.6, "W", fontsize=11, ha="right")
    axes.text(8.6, 2.6, "b", fontsize=11, ha="right")
    box(15.2, 7.2, "frozen", frozen, 3.2, 0.8)
    box(15.2, 6.2, "trained", trained, 3.2, 0.8)
    return finish(figure, spines=False)


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
    return finish(figure, spines=False)


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
    return finish(figure, spines=False)


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
    return finish(figure)


def confusion(counts: pd.DataFrame) -> Figure:
    """Return a confusion matrix with its numbers, a row a true class, a column a predicted one, shaded as shares of the row."""
    size = 1.6 + 0.55 * len(counts)
    figure, axes = plt.subplots(figsize=(size + 0.6, size))
    share = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
    sns.heatmap(share, annot=counts, fmt="d", cmap="Greys", vmin=0, vmax=1, cbar=False, ax=axes, linewidths=0.5)
    axes.set(xlabel="predicted", ylabel="true", title=f"test pictures, n = {int(counts.to_numpy().sum())}")
    axes.tick_params(axis="x", rotation=90)
    axes.tick_params(axis="y", rotation=0)
    return finish(figure, spines=False)


def pictures(images: Sequence, titles: Sequence[str], columns: int = 6) -> Figure:
    """Return pictures in a grid, each with a few lines above."""
    rows = max(1, -(-len(images) // columns))
    figure, grid = plt.subplots(rows, columns, figsize=(1.7 * columns, 2.3 * rows), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.imshow(np.asarray(image.convert("RGB")))
        axes.set_title(title, fontsize=7)
    return finish(figure, spines=False)
