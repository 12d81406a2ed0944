"""Checks on the other tables and on the points of Figs. 2 and 6: averages, gains, wins. No model is needed."""

import pandas as pd

from glora_lib.audit.judge import number, statement, value
from glora_lib.audit.sources import reported, setting
from glora_lib.audit.table1 import GROUPS, group_means


def recomputed() -> pd.DataFrame:
    """Return every printed average of Tables 1, 2 and 6 beside the mean of its entries.

    Columns: id, place, reported, ours, tolerance, verdict. Tolerance: 0.05 for the average's own rounding and as much for
    that of its entries.
    """
    means = group_means()["average"]
    rows = [(f"{m.lower()}-{size:g}", "table1_vtab1k", "GLoRA Table 1", ours) for (m, size), ours in means.items()]
    table2 = reported("table2_llm")
    for (backbone, method, data), entries in table2.groupby(["backbone", "method", "dataset"], sort=False):
        name = f"{backbone.lower()}/{method.lower()}{'' if data == '-' else '-' + data.lower()}"
        rows.append((name, "table2_llm", "GLoRA Table 2", entries.query("benchmark != 'average'")["value"].mean()))
    for method, entries in reported("table6_swin_b").groupby("method", sort=False):
        rows.append((method.lower(), "table6_swin_b", "GLoRA Table 6", entries.query("group != 'average'")["value"].mean()))
    printed = {file: reported(file).set_index("id") for _, file, _, _ in rows}
    found = []
    for name, file, place, ours in rows:
        entry = printed[file].loc[f"{file[:6]}/{name}/average"]
        printed_value, tolerance = float(entry["value"]), float(entry["tolerance"])
        verdict = number(printed_value, ours, tolerance)
        found.append((f"{file[:6]}/average/{name.replace('/', '-')}", place, printed_value, ours, tolerance, verdict))
    return pd.DataFrame(found, columns=["id", "place", "reported", "ours", "tolerance", "verdict"])


def averages_hold(place: str) -> tuple[bool, str]:
    """Say whether every printed average of a table lies within the rounding of its entries, and which does not."""
    rows = recomputed().query("place == @place")
    out = rows[rows["verdict"] != "match"]
    beyond = ", ".join(f"{row.id.split('/')[-1]} ({row.ours:.2f}, printed {row.reported})" for row in out.itertuples())
    return out.empty, f"{len(rows) - len(out)} of {len(rows)} within rounding" + (f", not {beyond}" if beyond else "")


def llm_losses() -> list[str]:
    """Return where GLoRA is below its base model or the LoRA row of the same data in Table 2, averages excluded."""
    scores = reported("table2_llm").query("benchmark != 'average'")
    cells = scores.set_index(["backbone", "method", "dataset", "benchmark"])["value"]
    losses = []
    for (backbone, method, data, benchmark), ours in cells.items():
        rivals = {"base": cells[backbone, "base", "-", benchmark]}
        rivals["LoRA"] = cells.get((backbone, "LoRA", data, benchmark))
        if method == "GLoRA":
            name = benchmark.split("_")[0]
            losses += [
                f"{ours} < {rival} {who}, {name}, {backbone}"
                for who, rival in rivals.items()
                if rival is not None and ours < rival
            ]
    return losses


def llm_consistently() -> tuple[bool, str]:
    """Say whether GLoRA is nowhere below its base or LoRA in Table 2."""
    losses = llm_losses()
    return not losses, f"{len(losses)} cells are lower: {'; '.join(losses)}"


def same_hyperparameters() -> tuple[bool, str]:
    """Say whether LoRA and GLoRA share the settings that the paper gives for language models."""
    ours, lora = setting("glora epochs language"), setting("lora epochs language")
    return ours == lora, f"rate and batch are the same, epochs are {ours:g} and {lora:g}"


def domain_gain(target: str) -> float:
    """Return GLoRA's gain over LoRA on a target of Table 3, in percent of LoRA's accuracy."""
    cells = reported("table3_domain_generalization").pivot(index="method", columns="target", values="value")
    return 100 * (cells.loc["GLoRA (0.29M)", target] / cells.loc["LoRA", target] - 1)


def kept_of_source() -> pd.DataFrame:
    """Return each target's accuracy of Table 3 as a share of the same method's accuracy on ImageNet."""
    cells = reported("table3_domain_generalization").pivot(index="method", columns="target", values="value").dropna()
    return cells.drop(columns="imagenet").div(cells["imagenet"], axis=0)


def domain_ahead() -> tuple[bool, str]:
    """Say whether GLoRA is ahead of all others on every column of Table 3; add how much of the source accuracy it keeps."""
    cells = reported("table3_domain_generalization").pivot(index="method", columns="target", values="value").dropna()
    gap = cells.loc["GLoRA (0.29M)"] - cells.drop(index="GLoRA (0.29M)").max()
    share = kept_of_source()
    most = share.idxmax()
    kept = ", ".join(f"{target} {most[target].split(' ')[0]}" for target in share)
    source = cells.loc["GLoRA (0.29M)", "imagenet"] - cells.loc["LoRA", "imagenet"]
    return bool(
        (gap > 0).all()
    ), f"ahead by {gap.min():.1f} to {gap.max():.1f}; source {source:+.1f} over LoRA; keeps most: {kept}"


def swin_ahead() -> tuple[bool, str]:
    """Say whether GLoRA is ahead of all others in every column of Table 6."""
    cells = reported("table6_swin_b").pivot(index="method", columns="group", values="value")
    gap = cells.loc["GLoRA"] - cells.drop(index="GLoRA").max()
    return bool((gap > 0).all()), ", ".join(f"{group} {gap[group]:+.1f}" for group in (*GROUPS, "average"))


def few_shot() -> pd.DataFrame:
    """Return the points of Figs. 2 and 6, in percent: a row per (dataset, shots), a column per method."""
    points = reported("fig2_few_shot")
    return points.pivot_table(index=["dataset", "shots"], columns="method", values="value", sort=False)


def few_shot_ahead() -> pd.Series:
    """Return GLoRA minus the best other method at each point of Figs. 2 and 6, in points."""
    points = few_shot()
    return (points["GLoRA"] - points.drop(columns="GLoRA").max(axis=1)).round(6)


def few_shot_consistently() -> tuple[bool, str]:
    """Say whether GLoRA is behind nobody at any point of Figs. 2 and 6."""
    gap = few_shot_ahead()
    behind = ", ".join(f"{dataset} {shots}-shot {points:+.1f}" for (dataset, shots), points in gap[gap < 0].items())
    return not behind, f"ahead at {(gap > 0).sum()} of {len(gap)} points, level at {(gap == 0).sum()}; behind: {behind}"


def food_on_par() -> float:
    """Return GLoRA minus NOAH on Food101, averaged over the shots, in points."""
    points = few_shot().loc["food101"]
    return float((points["GLoRA"] - points["NOAH"]).mean())


def flowers_similar(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold "similar" against the widest spread between methods on Flowers102; the tolerance says what similar is."""
    points, limit = few_shot().loc["flowers102"], float(claim["tolerance"])
    spread = points.max(axis=1) - points.min(axis=1)
    wide = ", ".join(f"{shots}-shot {points:.1f}" for shots, points in spread[spread > limit].items())
    found = f"spread between methods {spread.min():.1f} to {spread.max():.1f} points; above {limit:g}: {wide}"
    return found, number(0.0, spread.max(), limit)


def boost_grows() -> tuple[bool, str]:
    """Say whether the gain of GLoRA's average over the best other average is larger at 8 and 16 shots than at 1 and 2."""
    means = few_shot().groupby("shots").mean()
    gain = means["GLoRA"] - means.drop(columns="GLoRA").max(axis=1)
    later = bool(gain[[8, 16]].mean() > gain[[1, 2]].mean())
    return later, ", ".join(f"{shots}-shot {points:+.1f}" for shots, points in gain.items())


def few_shots_gain() -> tuple[bool, str]:
    """Say whether GLoRA's mean over the sets is ahead of each set's best other at 1 and at 2 shots; no spread is given."""
    gap = few_shot_ahead().unstack("shots")[[1, 2]]
    words = [
        f"{shots}-shot {part.mean():+.1f} on average, by set {part.min():+.1f} to {part.max():+.1f}"
        for shots, part in gap.items()
    ]
    return bool((gap.mean() > 0).all()), "; ".join([*words, "no spread is given"])


def gap_to_full() -> tuple[bool, str]:
    """Say whether GLoRA with 16 images a class is nearer than every other method to fine-tuning on all of ImageNet."""
    cells = reported("table3_domain_generalization").query("target == 'imagenet'").set_index("method")["value"]
    full, ours = cells["Full ImageNet-1K fine-tuning"], cells["GLoRA (0.29M)"]
    others = full - cells.drop(["Full ImageNet-1K fine-tuning", "GLoRA (0.29M)"])
    return bool(
        full - ours < others.min()
    ), f"{full - ours:.1f} points below {full:g}; the others {others.min():.1f} to {others.max():.1f}"


CHECKS = {
    "table2/consistently": statement(llm_consistently),
    "table2/same-settings": statement(same_hyperparameters),
    "table3/imagenet-a": value(lambda: domain_gain("a"), "{:.1f} %"),
    "table3/imagenet-sketch": value(lambda: domain_gain("sketch"), "{:.1f} %"),
    "table3/ahead": statement(domain_ahead),
    "table3/gap": statement(gap_to_full),
    "table6/all-existing": statement(swin_ahead),
    "few-shot/consistently": statement(few_shot_consistently),
    "few-shot/food101": value(food_on_par, "{:+.2f} points"),
    "few-shot/flowers102": flowers_similar,
    "few-shot/more-shots": statement(boost_grows),
    "few-shot/few-shots": statement(few_shots_gain),
}
