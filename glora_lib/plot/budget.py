"""Accuracy against training: the curve of budgets, and the difference of two methods along it."""

import matplotlib.pyplot as plt
import pandas as pd
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
    for place, (task, part) in enumerate(gaps.groupby("task", sort=False)):
        right.plot(
            part["epochs"],
            part["difference"],
            ls="",
            marker="osD^v"[place % 5],
            color=GREYSAFE[place % 5],
            mfc="none",
            label=task,
        )
    if len(gaps):
        mean = gaps.groupby("epochs")["difference"].mean()
        right.plot(mean.index, mean, color="black", marker="_", ms=14, label="mean")
        right.legend(frameon=False, fontsize=8)
    right.axhline(0, color="0.6", lw=1)
    right.set(xscale="log", xlabel="epochs of both", ylabel=gap)
    ticks = sorted(set(points["epochs"]))
    for axes in (left, right):
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    return finish(figure)
