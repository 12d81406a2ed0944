"""Checks on our own runs: directions at cpu scale, numbers at paper scale. Without records, or with too few seeds: not run."""

import pandas as pd

from glora_lib.audit.judge import Check, number
from glora_lib.glora.space import forms
from glora_lib.measures.table import over_tasks, paired
from glora_lib.measures.transfer import by_shots, by_target
from glora_lib.runs.profile import PROFILES
from glora_lib.runs.record import results

SEEDS = 3  # fewer support no statement about a method
TASKS = 19  # of VTAB-1K


def direction(difference: float, seeds: int, found: str, profile: str) -> tuple[str, str]:
    """Return what was found, and the verdict by the sign of a difference, once there are enough seeds."""
    if not PROFILES[profile].compared:
        return f"the {profile} profile is compared with nothing", "not run"
    if seeds < SEEDS:
        return f"{found}; {seeds} of {SEEDS} seeds", "not run"
    return found, "direction" if difference > 0 else "contradicted"


def compared(pairs: pd.DataFrame, profile: str, unit: str = "task") -> tuple[str, str]:
    """Return the verdict on a table of `paired`: the mean difference over its tasks that have enough seeds.

    What was found has a 95 % t interval over the tasks, or over the seeds of a single one, and says whether it spans zero. The
    column `unit` says what counts once: rows of one unit are averaged first.
    """
    if pairs.empty:
        return f"no records to compare ({profile})", "not run"
    if (pairs["n"] >= SEEDS).any():
        pairs = pairs[pairs["n"] >= SEEDS]
    once = pairs.groupby(unit, sort=False)["difference"].mean().reset_index().assign(against="")
    single = len(pairs) == 1  # then `paired` has the interval over its seeds
    row = pairs.iloc[0] if single else over_tasks(once).iloc[0]
    over = f"{row.n} seeds of 1 {unit}" if single else f"{row.n} {unit}{'' if row.n == 1 else 's'}"
    interval = f" [{row.low:.1f}, {row.high:.1f}]" if row.low <= row.high else ""  # else NaN: one value has none
    unsure = "; the interval spans zero" if row.low <= 0 <= row.high else ""
    found = f"{row.difference:+.1f} points{interval} over {over} ({profile}, {pairs['n'].sum()} pairs){unsure}"
    return direction(row.difference, int(pairs["n"].min()), found, profile)


def beats(against: str) -> Check:
    """Return the check that GLoRA is ahead of a method on the mean of the profile's tasks."""
    return lambda claim, profile: compared(paired(results("vtab1k", profile), "glora", against), profile)


def beats_all(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold "all previous methods" against every other method that has enough seeds on a common task."""
    records = results("vtab1k", profile)
    others = sorted(set(records["method"]) - {"glora"})
    pairs = {other: paired(records, "glora", other).query("n >= @SEEDS") for other in others}
    pairs = {other: table for other, table in pairs.items() if len(table)}
    if not pairs:
        return f"no other method with {SEEDS} seeds ({profile})", "not run"
    strongest = min(pairs, key=lambda other: pairs[other]["difference"].mean())
    found, verdict = compared(pairs[strongest], profile)
    return f"against {strongest}, the strongest of {len(pairs)}: {found}", verdict


def evolution(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the search against random search with as many evaluations on the same supernet, on test images."""
    tables = [results(experiment, profile) for experiment in ("vtab1k", "search", "controls")]
    records = pd.concat([table for table in tables if len(table)] or tables)
    return compared(paired(records, "glora", "glora_random"), profile)


def subnets_comparable(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold "comparable performance" against the found subnet minus random subnets of its supernet, on test images."""
    records = _configurations(profile)
    if records.empty:
        return f"no records ({profile})", "not run"
    gap = 100 * (records["test"] - records["random_test"].map(lambda values: sum(values) / len(values)))
    seeds = int(records.groupby("task")["seed"].nunique().min())
    tolerance = float(claim["tolerance"])
    found = f"found minus random subnets: {gap.mean():+.1f} points, at most {gap.max():+.1f} ({profile}, {len(gap)} runs)"
    return direction(tolerance - gap.mean(), seeds, found, profile)


def _configurations(profile: str) -> pd.DataFrame:
    """Return GLoRA's records on the tasks that have enough seeds, or all where none has."""
    records = results("vtab1k", profile)
    records = records[records["method"] == "glora"]
    seeds = records.groupby("task")["seed"].transform("nunique")
    return records[seeds >= SEEDS] if (seeds >= SEEDS).any() else records


def structured_needs_more(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the stored parameters of structured tasks against those of the other groups."""
    records = _configurations(profile)
    if records.empty:
        return f"no records ({profile})", "not run"
    group = records["record"].map(lambda record: record.settings["group"])
    means = records.groupby(group)["stored"].mean()
    if "structured" not in means or len(means) < 2:
        return f"no two groups ({profile})", "not run"
    gap = means["structured"] - means.drop("structured").max()
    found = ", ".join(f"{name} {size:,.0f}" for name, size in means.items())
    return direction(gap, int(records.groupby("task")["seed"].nunique().min()), f"stored: {found} ({profile})", profile)


def bias_tensors_unused(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold how often D and E are none, and A and B, against chance: the excess must be more than two standard deviations."""
    records = _configurations(profile)
    if records.empty:
        return f"no records ({profile})", "not run"
    layers = [choice for record in records["record"] for choice in record.config.values()]
    ranks = records.iloc[0]["record"].settings["ranks"]

    def share(*tensors: str) -> float:
        return sum(choice[tensor] == "none" for choice in layers for tensor in tensors) / (len(layers) * len(tensors))

    bias, weight = share("D", "E"), share("A", "B")
    by_chance = [1 / len(forms(tensor, ranks)) for tensor in ("D", "A")]
    chance = ", ".join(f"{100 * part:.0f} %" for part in by_chance)
    shares = f"{100 * bias:.0f} % of D and E, {100 * weight:.0f} % of A and B"
    found = f"none: {shares}, by chance {chance} ({profile}, {len(records)} runs)"
    genes = 2 * len(layers)
    deviation = sum(part * (1 - part) / genes for part in by_chance) ** 0.5
    # D and E have fewer forms, so that chance alone leaves them out more often: what counts is the excess over it
    excess = bias - weight - (by_chance[0] - by_chance[1])
    return direction(excess - 2 * deviation, int(records.groupby("task")["seed"].nunique().min()), found, profile)


def fused_speed(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the throughput of a fused GLoRA model against its backbone's, and copies of the backbone as the measure of noise."""
    records = results("inference", profile)
    if records.empty or not PROFILES[profile].compared:
        return f"no record of throughput ({profile})", "not run"
    ratios = records.iloc[-1]["ratio"]
    fused = {key.split("/")[1]: ratio for key, ratio in ratios.items() if key.startswith("glora fused/")}
    copies = [ratio for key, ratio in ratios.items() if key.split("/")[0] in ("linear", "full", "bitfit")]
    noise = max(abs(ratio - 1) for ratio in copies)
    worst = max(abs(ratio - 1) for ratio in fused.values())
    found = f"within {100 * worst:.1f} % of the backbone; copies of it within {100 * noise:.1f} % ({profile})"
    return found, "direction" if worst <= max(noise, 0.02) else "contradicted"


def equal_budget(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold GLoRA against LoRA trained for at least as many epochs as the supernet, in the table or among its controls."""
    table, controls = results("vtab1k", profile), results("controls", profile)
    glora = table[table["method"] == "glora"]
    every = pd.concat([part for part in (table, controls) if len(part)] or [table])
    epochs = every["record"].map(lambda record: record.settings.get("epochs", 0))
    needed = max((record.settings["epochs"] for record in glora["record"]), default=0)
    long = every[every["method"].str.startswith("lora") & (epochs >= needed)].assign(method="lora")
    return compared(paired(pd.concat([glora, long]), "glora", "lora"), profile)


def paper_average(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the reported average over VTAB-1K against the paper profile's, the mean of the groups' means over all tasks."""
    records = results("vtab1k", "paper")
    glora = records[records["method"] == "glora"]
    if glora["task"].nunique() < TASKS:
        return f"{glora['task'].nunique()} of {TASKS} tasks", "not run"
    groups = glora["record"].map(lambda record: record.settings["group"])
    ours = 100 * glora.groupby([groups.rename("group"), "task"])["test"].mean().groupby("group").mean().mean()
    return f"{ours:.1f}", number(float(claim["reported"]), ours, float(claim["tolerance"]))


def paper_mean(experiment: str, method: str = "glora") -> Check:
    """Return the check of a reported number against the mean test metric of a method's paper-scale records of an experiment."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        records = results(experiment, "paper")
        records = records[records["method"] == method]
        if records.empty:
            return f"no record of {experiment} at paper scale", "not run"
        ours = 100 * records["test"].mean()
        return f"{ours:.1f} ({len(records)} records)", number(float(claim["reported"]), ours, float(claim["tolerance"]))

    return check


def few_shot_ahead(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold GLoRA against LoRA on few-shot tasks, at equal numbers of images; each set counts once."""
    pairs = paired(by_shots(results("few_shot", profile)), "glora", "lora")
    return compared(pairs.assign(set=pairs["task"].str.split().str[0]), profile, unit="set")


def shift_ahead(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold GLoRA against LoRA on the shifted test sets of every source; the source's own test images do not count."""
    records = by_target(results("domain_generalization", profile))
    pairs = paired(records[records["target"] != "source"], "glora", "lora")
    return compared(pairs.rename(columns={"task": "target"}), profile, unit="target")


CHECKS = {
    "measured/glora-beats-linear": beats("linear"),
    "measured/glora-beats-lora": beats("lora"),
    "measured/glora-beats-repadapter": beats("repadapter"),
    "measured/all-previous": beats_all,
    "measured/equal-budget": equal_budget,
    "search/effective": evolution,
    "search/comparable": subnets_comparable,
    "figure3/structured": structured_needs_more,
    "figure4/none": bias_tensors_unused,
    "table4/throughput": fused_speed,
    "few-shot/measured": few_shot_ahead,
    "table3/measured": shift_ahead,
    "paper-scale/average": paper_average,
    "paper-scale/swin": paper_mean("swin"),
    "paper-scale/imagenet": paper_mean("domain_generalization"),
    "paper-scale/llama-2": paper_mean("language_models"),
    "paper-scale/bleu": paper_mean("e2e_nlg", "superlora"),
    "paper-scale/cifar100": paper_mean("superlora_cifar100", "lorta"),
}
