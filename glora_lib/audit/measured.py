"""Checks on our own runs: statements of the papers at another scale, our own questions, and numbers at paper scale."""

import pandas as pd
from scipy import stats

from glora_lib.audit.intervals import amount, judged, needed, over_sources, scale
from glora_lib.audit.judge import Check, Judged, number, seen
from glora_lib.glora.space import forms
from glora_lib.measures.origin import source
from glora_lib.measures.schedule import held_against
from glora_lib.measures.table import Interval, interval, paired
from glora_lib.measures.transfer import above_chance, by_shots, by_target
from glora_lib.runs.plan import EVERYWHERE, SEARCHED
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.record import Record, results

TASKS = 19  # of VTAB-1K


def together(profile: str, *experiments: str, against: str = "") -> pd.DataFrame:
    """Return the records of several experiments in one table, of GLoRA's rates the one that suits what it is held against."""
    tables = [results(experiment, profile) for experiment in experiments]
    table = pd.concat([table for table in tables if len(table)] or tables)
    return held_against(table, against) if PROFILES[profile].rows else table


def searched(profile: str) -> str:
    """Return GLoRA's row whose supernet a profile's controls and shifts take."""
    return SEARCHED if PROFILES[profile].rows else "glora"


def standing_for(method: str, records: pd.DataFrame) -> str:
    """Return the row that stands for a method: its own or, where that has no record, GLoRA with B divided by its inputs for the
    paper's form, and LoRA on all layers for Table 1's size. The scale of a comparison says which it was.
    """
    other = {"glora": SEARCHED, "lora": EVERYWHERE}.get(method, method)
    return method if method in set(records["method"]) else other


def ahead_of(against: str, *experiments: str) -> Check:
    """Return the check that GLoRA is ahead of a method or a control, which may lie in other experiments."""

    def check(claim: pd.Series, profile: str) -> Judged:
        records = together(profile, "vtab1k", *experiments, against=against)
        ours = searched(profile) if experiments else standing_for("glora", records)
        other = standing_for(against, records)
        records = records[records["method"].isin([ours, other])]
        pairs = paired(records, ours, other)
        same = records[records["task"].isin(pairs.loc[pairs["n"] >= needed(profile), "task"])]
        return judged(pairs, profile, scale=scale(same, ours, other))

    return check


def few_shot_ahead(claim: pd.Series, profile: str) -> Judged:
    """Hold GLoRA against LoRA on few-shot tasks, where the linear probe is clear of chance; each set counts once."""
    records = above_chance(by_shots(results("few_shot", profile)))
    pairs = paired(records, "glora", "lora")
    pairs["set"] = pairs["task"].str.split().str[0]
    return judged(pairs, profile, unit="set", scale=scale(records, "glora", "lora"))


def shift_ahead(claim: pd.Series, profile: str) -> Judged:
    """Hold GLoRA against LoRA on the shifted test sets of every source; targets of one training are one source."""
    records, lora = together(profile, "domain_generalization"), EVERYWHERE if PROFILES[profile].rows else "lora"
    targets = by_target(records)
    pairs = paired(targets[targets["target"] != "source"], searched(profile), lora)
    pairs = pairs.rename(columns={"task": "target"}).assign(task=pairs["task"])
    return judged(pairs, profile, unit="target", counts="trainings", scale=scale(records, searched(profile), lora))


def configurations(profile: str) -> pd.DataFrame:
    """Return GLoRA's records on the tasks that have enough seeds."""
    records = together(profile, "vtab1k")
    records = records[records["method"] == standing_for("glora", records)]
    return records[records.groupby("task")["seed"].transform("nunique") >= needed(profile)]


def by_run(records: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """Return a row a task: the mean of a run's value over seeds, and how many."""
    table = records.assign(difference=values).groupby("task", sort=False)["difference"]
    return table.agg(difference="mean", n="size").reset_index()


def found_ahead(claim: pd.Series, profile: str) -> Judged:
    """Hold the subnet that was found against the mean of random subnets of its supernet, on test images."""
    records = configurations(profile)
    if records.empty:
        return Judged(f"no records ({profile})", "not run")
    gap = 100 * (records["test"] - records["random_test"].map(lambda values: sum(values) / len(values)))
    table = by_run(records, gap)
    found = judged(table, profile, scale=scale(records))
    return found._replace(by_task=f"{found.by_task}, ahead on {(table['difference'] > 0).sum()} of {len(table)}")


def nothing_to_retrain(claim: pd.Series, profile: str) -> Judged:
    """Hold "no requirement to retrain the subnet" against the subnet that was found, trained once more alone.

    The statement's side is "inherited weights are at most the tolerance behind", on test images, in points.
    """
    records = results("controls", profile)
    records = records[records["method"] == "glora_retrained"] if len(records) else records
    if records.empty:
        return Judged(f"no records ({profile})", "not run")
    behind = 100 * (records["inherited_test"] - records["test"])
    return judged(by_run(records, behind + float(claim["tolerance"])), profile, scale=scale(records))


def subnets_comparable(claim: pd.Series, profile: str) -> Judged:
    """Hold "comparable across all subnets" against the range of a few random ones: at most the tolerance."""
    records = configurations(profile)
    if records.empty:
        return Judged(f"no records ({profile})", "not run")
    ranges = 100 * records["random_test"].map(lambda values: max(values) - min(values))
    limit, number_of = float(claim["tolerance"]), records["random_test"].map(len).iloc[0]
    beyond = judged(by_run(records, limit - ranges), profile, scale=scale(records))
    within = over_sources(by_run(records, ranges))
    text = (
        f"the best and the worst of {number_of} random subnets differ by {within.mean:.1f} points [{within.low:.1f}, "
        f"{within.high:.1f}] over {amount(within.n, 'sources')}, by more than {limit:g} in {(ranges > limit).sum()} of "
        f"{len(ranges)} runs, by {ranges.max():.1f} at most"
    )
    return beyond if beyond.verdict == "not run" else beyond._replace(ours=text, by_task="", by_pip="")


def structured_needs_more(claim: pd.Series, profile: str) -> Judged:
    """Hold the stored parameters of structured tasks against those of the others: Welch's interval over sources."""
    records = configurations(profile)
    if records.empty or not PROFILES[profile].compared:
        return Judged(f"no records ({profile})", "not run")
    group = records["record"].map(lambda record: record.settings["group"]).rename("group")
    stored = records.groupby([group, records["task"].map(source)])["stored"].mean() / 1e3
    if "structured" not in stored or len(stored) == len(stored["structured"]):
        return Judged(f"no two groups ({profile})", "not run")
    ours, others = stored["structured"], stored.drop("structured")
    low = high = half = float("nan")
    if min(len(ours), len(others)) > 1:
        low, high = stats.ttest_ind(ours, others, equal_var=False).confidence_interval()
        half = (high - low) / 2
    gap = ours.mean() - others.mean()
    means = ", ".join(f"{name} {size:.0f}" for name, size in (records.groupby(group)["stored"].mean() / 1e3).items())
    text = f"structured minus the rest {gap:+.0f} thousand [{low:.0f}, {high:.0f}], {len(ours)} against {len(others)} sources; "
    return Judged(f"{text}stored: {means}", seen(low, high), visible=f"{half:.0f} thousand", scale=scale(records))


def bias_tensors_unused(claim: pd.Series, profile: str) -> Judged:
    """Hold how often D and E are none beyond A and B, less what chance gives: D and E have fewer forms."""
    records = configurations(profile)
    if records.empty:
        return Judged(f"no records ({profile})", "not run")
    ranks = records.iloc[0]["record"].settings["ranks"]

    def share(record, *tensors: str) -> float:
        layers = record.config.values()
        return 100 * sum(choice[tensor] == "none" for choice in layers for tensor in tensors) / (len(layers) * len(tensors))

    bias, weight = (records["record"].map(lambda record, pair=pair: share(record, *pair)) for pair in ("DE", "AB"))
    chance = [100 / len(forms(tensor, ranks)) for tensor in "DA"]
    excess = by_run(records, bias - weight - (chance[0] - chance[1]))
    found = judged(excess, profile, what="beyond chance ", scale=scale(records))
    shares = f"{bias.mean():.0f} % of D and E, {weight.mean():.0f} % of A and B; dice: {chance[0]:.0f} %, {chance[1]:.0f} %"
    return found if found.verdict == "not run" else found._replace(ours=f"{found.ours}; none: {shares}", by_pip="")


def fused_speed(claim: pd.Series, profile: str) -> Judged:
    """Hold a fused model's time of a forward pass against its backbone's, round by round, in the benchmark's record.

    The statement's side is "at least 1 - tolerance as fast". Where the interval over rounds is wider than that, the timing
    cannot test it. Of several records the one with the narrowest interval is read: what a machine does beside only widens it.
    """
    records = results("benchmark", profile)
    if records.empty or not PROFILES[profile].compared:
        return Judged(f"no record of times ({profile})", "not run")
    margin = float(claim["tolerance"])
    ratio, record = min(((_fused(record), record) for record in records["record"]), key=lambda pair: pair[0].half)
    text = f"{ratio.mean:.3f} of the backbone's speed [{ratio.low:.3f}, {ratio.high:.3f}] over {ratio.n} rounds"
    text += f", the steadiest of {len(records)} records" if len(records) > 1 else ""
    verdict = "not testable here" if ratio.half > margin else seen(ratio.low - (1 - margin), ratio.high - (1 - margin))
    shape = f"{record.settings['image_size']} px; batch {record.settings['batch']}, {record.provenance['processor']}"
    return Judged(text, verdict, visible=f"{100 * ratio.half:.1f} %", scale=shape)


def _fused(record: Record) -> Interval:
    times = record.history["steps"]["float32"]
    return interval(pd.Series(times["forward, base"]) / pd.Series(times["forward, fused"]))


def paper_average(experiment: str, method: str) -> Check:
    """Return the check of a reported average over VTAB-1K: the mean of the groups' means over all tasks at paper scale."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        records = results(experiment, "paper")
        rows = records[records["method"] == method]
        if rows["task"].nunique() < TASKS:
            return f"{rows['task'].nunique()} of {TASKS} tasks", "not run"
        groups = rows["record"].map(lambda record: record.settings["group"])
        ours = 100 * rows.groupby([groups.rename("group"), "task"])["test"].mean().groupby("group").mean().mean()
        return f"{ours:.1f}", number(float(claim["reported"]), ours, float(claim["tolerance"]))

    return check


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


CHECKS = {
    "measured/glora-beats-linear": ahead_of("linear"),
    "measured/glora-beats-bitfit": ahead_of("bitfit"),
    "measured/glora-beats-lora": ahead_of("lora"),
    "measured/glora-beats-fact": ahead_of("fact_tk"),
    "measured/glora-beats-repadapter": ahead_of("repadapter"),
    "measured/equal-size": ahead_of("lora_matched", "controls"),
    "measured/equal-operations": ahead_of("lora_long", "controls"),
    "search/effective": ahead_of("glora_random", "search", "controls"),
    "search/ahead-of-random": found_ahead,
    "search/comparable": subnets_comparable,
    "search/no-retraining": nothing_to_retrain,
    "figure3/structured": structured_needs_more,
    "figure4/none": bias_tensors_unused,
    "table4/throughput": fused_speed,
    "few-shot/measured": few_shot_ahead,
    "table3/measured": shift_ahead,
    "paper-scale/average": paper_average("vtab1k", "glora"),
    "paper-scale/swin": paper_average("layers", "glora_linear"),
    "paper-scale/imagenet": paper_mean("domain_generalization"),
}
