"""Checks on Table 1 of GLoRA: averages of groups, wins, gains, sizes as printed. No model is needed."""

import pandas as pd

from glora_lib.audit.judge import exact, number, statement, value
from glora_lib.audit.sources import reported

GROUPS = ("natural", "specialized", "structured")


def table1() -> pd.DataFrame:
    """Return Table 1's accuracies in percent: a row per (method, size in M), a column per task, the printed average last."""
    entries = reported("table1_vtab1k").query("metric == 'top1'").astype({"value": float})
    order = list(dict.fromkeys(entries["task"]))
    return entries.pivot_table(index=["method", "reported_params_m"], columns="task", values="value", sort=False)[order]


def group_means() -> pd.DataFrame:
    """Return the mean of each group of tasks and `average`, the mean of the three, for every row of Table 1."""
    groups = reported("table1_vtab1k").query("group in @GROUPS", local_dict={"GROUPS": GROUPS})
    group_of = groups.drop_duplicates("task").set_index("task")["group"]
    means = table1().drop(columns="average").T.groupby(group_of).mean().T[list(GROUPS)]
    return means.assign(average=means.mean(axis=1))


def ahead() -> pd.Series:
    """Return for every task the best GLoRA row minus the best other row of Table 1, in points."""
    return _ahead(table1().drop(columns="average"))


def _ahead(scores: pd.DataFrame) -> pd.Series:
    ours = scores.index.get_level_values("method") == "GLoRA"
    return (scores[ours].max() - scores[~ours].max()).round(6)


def tasks_won() -> int:
    """Return on how many tasks some GLoRA row is strictly ahead of every other row of Table 1."""
    return int((ahead() > 0).sum())


def tasks_won_alone(size: float = 0.86) -> int:
    """Return on how many tasks the GLoRA row of this size (M) alone is strictly ahead of every other method's row."""
    scores = table1().drop(columns="average")
    ours = scores.index.get_level_values("method") == "GLoRA"
    return int(((scores.loc[("GLoRA", size)] - scores[~ours].max()).round(6) > 0).sum())


def gains() -> pd.DataFrame:
    """Return every GLoRA row of Table 1 minus the best earlier row, in points: by group and on average."""
    means = group_means()
    ours = means.index.get_level_values("method") == "GLoRA"
    return means[ours] - means[~ours].max()


def largest_gains() -> dict[str, float]:
    """Return the largest gain over the best earlier method: on average, in a group, on a task."""
    table = gains()
    return {"average": table["average"].max(), "group": table[list(GROUPS)].max().max(), "task": ahead().max()}


def gain_of(size: float, method: str, group: str) -> float:
    """Return the GLoRA row of this size (M) minus another method's row in the mean of a group of Table 1, in points."""
    means = group_means().xs("GLoRA").loc[size], group_means().xs(method).iloc[0]
    return float(means[0][group] - means[1][group])


def fact_leads() -> tuple[bool, str]:
    """Say whether FacT has the best average of the earlier methods in Table 1; add its place on SVHN, of which Fig. 5 is."""
    means, svhn = group_means()["average"].drop("GLoRA").droplevel(1), table1()["svhn"].drop("GLoRA").droplevel(1)
    ahead = {name: ", ".join(scores.index[scores > scores["FacT"]]) for name, scores in (("average", means), ("SVHN", svhn))}
    return not ahead["average"], "; ".join(f"ahead of FacT, {name}: {methods or 'none'}" for name, methods in ahead.items())


def smallest_ahead() -> tuple[bool, str]:
    """Say whether the smallest GLoRA row is ahead of every earlier row on average."""
    gain = gains()["average"].xs("GLoRA")
    return bool(gain[0.29] > 0), f"{gain[0.29]:+.1f} points over the best earlier average (no spread is given)"


def ahead_in_every_group() -> tuple[bool, str]:
    """Say whether the largest GLoRA row has the best mean in each of the three groups."""
    row = gains().loc[("GLoRA", 0.86), list(GROUPS)]
    return bool((row > 0).all()), ", ".join(f"{group} {gain:+.1f}" for group, gain in row.items())


def smaller() -> list[str]:
    """Return the PEFT methods of Table 1 with fewer parameters, as printed, than the smallest GLoRA."""
    sizes = table1().index.to_frame(index=False).query("method not in ('Full', 'Linear')")
    least = sizes.loc[sizes["method"] == "GLoRA", "reported_params_m"].min()
    return sizes.loc[(sizes["method"] != "GLoRA") & (sizes["reported_params_m"] < least), "method"].tolist()


def fewer_parameters() -> tuple[bool, str]:
    """Say whether the smallest GLoRA row has fewer parameters than every other PEFT row of Table 1."""
    return not smaller(), f"{len(smaller())} methods have fewer than the smallest: {', '.join(smaller())}"


def prompt_share() -> tuple[bool, str]:
    """Say whether VPT's prompts are below one percent of the full model, by the sizes in Table 1."""
    sizes = table1().index.to_frame(index=False).set_index("method")["reported_params_m"]
    share = 100 * sizes["VPT-Deep"] / sizes["Full"]
    return bool(share < 1), f"{share:.2f} % (VPT-Deep)"


def won(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the reported number of tasks won against ours; say which are not, and what is left without the rows of VPT."""
    scores = table1().drop(columns="average")
    missed = ", ".join(ahead()[ahead() <= 0].index)
    without_vpt = int((_ahead(scores.drop(index=["VPT-Shallow", "VPT-Deep"])) > 0).sum())
    found = f"{tasks_won()} by the best of three models (not {missed}), {tasks_won_alone()} by the largest alone"
    return f"{found}; {without_vpt} without the VPT rows", exact(int(claim["reported"]), tasks_won())


def gained(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the reported largest gain against whichever of the three largest gains lies nearest."""
    largest, printed = largest_gains(), float(claim["reported"])
    nearest = min(largest.values(), key=lambda gain: abs(gain - printed))
    words = ", ".join(f"{gain:.1f} {where}" for where, gain in largest.items())
    return f"largest over the best earlier: {words}", number(printed, nearest, float(claim["tolerance"]))


def reruns() -> pd.DataFrame:
    """Return what others got when they ran a row of Table 1 again: method, task, reported, rerun, difference, source.

    `task` is "average", the name of a group, or a task.
    """
    printed, groups = table1().droplevel("reported_params_m"), group_means().droplevel("reported_params_m")
    rows = reported("reruns")
    values = [float((groups if row.task in GROUPS else printed).loc[row.method, row.task]) for row in rows.itertuples()]
    found = rows[["method", "task"]].assign(reported=values, rerun=rows["value"], source=rows["source"])
    found.insert(4, "difference", found["rerun"] - found["reported"])
    return found


def beyond_reruns() -> tuple[bool, str]:
    """Say whether GLoRA's lead on average exceeds what reruns by others move the averages of other rows by."""
    moved, lead = reruns().query("task == 'average'")["difference"], gains()["average"].max()
    found = f"lead {lead:.1f}; {len(moved)} reruns move averages by {moved.min():+.1f} to {moved.max():+.1f}"
    return bool(lead > moved.abs().max()), found


CHECKS = {
    "table1/14-of-19": won,
    "table1/2.9": gained,
    "table1/2.9-origin": value(lambda: gain_of(0.44, "FacT", "natural"), "{:.2f} points, natural tasks, 0.44 M against FacT"),
    "table1/smallest": statement(smallest_ahead),
    "table1/margin": statement(beyond_reruns),
    "table1/groups": statement(ahead_in_every_group),
    "table1/fewer-parameters": statement(fewer_parameters),
    "table1/prompt-share": statement(prompt_share),
    "figure5/state-of-the-art": statement(fact_leads),
}
