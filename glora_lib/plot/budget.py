"""Against epochs of training: accuracy, the difference of two methods, and what a search earns."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glora_lib.plot.style import GREYSAFE, finish, look


def curves(points: pd.DataFrame, gaps: pd.DataFrame, *, names: dict[str, str], gap: str) -> Figure:
    """Return two panels: means over tasks against epochs, a line a method; and differences, a dot a task and their mean.

    Args:
        points: columns task, method, epochs, test (%); several seeds are averaged.
        gaps: columns task, epochs, difference (points).
        names: what the legend calls the methods, in its order.
        gap: the second panel's y label.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for number, (method, name) in enumerate(names.items()):
        part = points[points["method"] == method]
        if part.empty:
            continue
        table = part.groupby("epochs")["test"].agg(["mean", "size"])
        colour, marker, _ = look(name, number)
        left.plot(table.index, table["mean"], color=colour, marker=marker, label=name)
        for epochs, row in table.iterrows():
            left.annotate(
                f"n={row['size']:.0f}", (epochs, row["mean"]), (0, 5), textcoords="offset points", fontsize=7, ha="center"
            )
    if points["method"].isin(names).any():
        left.legend(frameon=False)
    left.set(xscale="log", xlabel="epochs of training", ylabel="top-1 on test (%), mean over tasks; n points")
    _by_task(right, gaps, "difference")
    right.set(xscale="log", xlabel="epochs of both", ylabel=gap)
    for axes in (left, right):
        _ticks(axes, points["epochs"])
    return finish(figure)


def along(table: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Return a panel for each column of `labels`, with its y label, against epochs: a dot a task and their mean.

    `table` has these columns, and task and epochs.
    """
    figure, panels = plt.subplots(1, len(labels), figsize=(5 * len(labels), 4), squeeze=False)
    for axes, (column, label) in zip(panels[0], labels.items(), strict=True):
        _by_task(axes, table, column)
        axes.set(xscale="log", xlabel="epochs of the supernet", ylabel=label)
        _ticks(axes, table["epochs"])
    return finish(figure)


def _by_task(axes: Axes, table: pd.DataFrame, column: str) -> None:
    for place, (task, part) in enumerate(table.sort_values("task").groupby("task", sort=False)):
        look = {"marker": "osD^v"[place % 5], "color": GREYSAFE[place % 5], "mfc": "none"}
        axes.plot(part["epochs"], part[column], ls="", label=task, **look)
    if len(table):
        mean = table.groupby("epochs")[column].mean()
        axes.plot(mean.index, mean, color="black", marker="_", ms=14, label=f"mean, n = {table['task'].nunique()} tasks")
        axes.legend(frameon=False, fontsize=8)
    axes.axhline(0, color="0.6", lw=1)


def _ticks(axes: Axes, epochs: pd.Series) -> None:
    ticks = sorted(set(epochs))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
