"""How runs at another scale are judged: by whether an interval over independent sources of images lies beside zero."""

import pandas as pd

from glora_lib.audit.judge import Judged, seen
from glora_lib.measures.origin import by_pip_alone, source
from glora_lib.measures.table import Interval, interval
from glora_lib.runs.profiles import PROFILES

SEEDS = 3  # of every task, or as many as the profile has where those are fewer


def needed(profile: str) -> int:
    """Return how many seeds a task needs before it counts in a profile."""
    return min(SEEDS, len(PROFILES[profile].seeds))


def judged(
    differences: pd.DataFrame, profile: str, *, unit: str = "task", counts: str = "sources", scale: str = "", what: str = ""
) -> Judged:
    """Return the verdict on differences that are positive where the statement holds.

    Args:
        differences: as of `table.paired`, a row a task: task, difference and n (seeds); low and high, an interval over seeds,
            are shown where there is one source. Rows with one value in the column `unit` are averaged before anything else.
        unit: what counts once in `by_task`.
        counts: what the sources are called; nothing is judged over fewer seeds than `needed`.
        what: what the difference is, in front of the numbers.
    """
    if not PROFILES[profile].compared:
        return Judged(f"the {profile} profile is compared with nothing", "not run")
    if differences.empty:
        return Judged(f"no records to compare ({profile})", "not run")
    enough = differences[differences["n"] >= needed(profile)]
    if enough.empty:
        return Judged(f"{differences['n'].max()} of {needed(profile)} seeds ({profile})", "not run")
    once = enough.groupby(unit, sort=False).agg(difference=("difference", "mean"), task=("task", "first"))
    found = over_sources(once)
    words = f"{points(found)} over {amount(found.n, counts)}"
    if found.n == 1 and len(enough) == 1 and "low" in enough:
        words += f", over its seeds [{enough['low'].item():.1f}, {enough['high'].item():.1f}]"
    pip = once[once["task"].map(by_pip_alone)]
    return Judged(
        f"{what}{words} ({enough['n'].sum()} pairs)",
        seen(found.low, found.high),
        by_task=f"{points(interval(once['difference']))} over {amount(len(once), unit + 's')}" if len(once) > found.n else "",
        by_pip=f"{points(over_sources(pip))} over {amount(over_sources(pip).n, counts)}" if 0 < len(pip) < len(once) else "",
        visible=f"{found.half:.1f} points" if found.n > 1 else "",
        scale=scale,
    )


def over_sources(differences: pd.DataFrame) -> Interval:
    """Return the interval over the sources of images, each the mean of its tasks."""
    return interval(differences["difference"].groupby(differences["task"].map(source).to_numpy()).mean())


def points(found: Interval) -> str:
    """Return a mean and its interval in words, without the interval where there is one value."""
    return f"{found.mean:+.1f}" + (f" [{found.low:.1f}, {found.high:.1f}]" if found.n > 1 else "")


def amount(number: int, what: str) -> str:
    """Return "1 source" for (1, "sources"), else "7 sources"."""
    return f"{number} {what if number != 1 else what.removesuffix('s')}"


def scale(records: pd.DataFrame, *methods: str) -> str:
    """Return the scale of a comparison in words: pixels, and its sides' epochs, subnets scored and stored parameters.

    The sides are the methods; without any, those that the records have.
    """
    sides = [side(records[records["method"] == name]) for name in methods or records["method"].unique()]
    pixels = _values(records, "image_size")
    return f"{pixels} px; {' against '.join(sides)}" if pixels else ""


def side(records: pd.DataFrame) -> str:
    """Return one side of a comparison in words: epochs, rates tried, subnets scored, and millions of stored parameters."""
    parts = [f"{_values(records, 'epochs')} epochs"]
    if records["record"].map(lambda record: bool(record.settings.get("scale_broadcast") and record.config)).any():
        parts.append("B divided by its inputs")  # another geometry of training than the paper's
    tried = records["rates"].max() if "rates" in records else 0
    parts += [f"best of {tried:.0f} rates on val"] if tried > 1 else []
    scored = records["record"].map(lambda record: record.metrics.get("evaluations", 0)).mean()
    parts += [f"{scored:,.0f} subnets"] if scored > 0 else []
    stored = records["stored"].mean() / 1e6 if "stored" in records else 0
    parts += [f"{stored:.2f} M stored"] if stored > 0 else []
    return ", ".join(parts)


def _values(records: pd.DataFrame, setting: str) -> str:
    """Return the values that records have for a setting: "14", "2 to 14", or "" where none has it."""
    values = sorted({record.settings[setting] for record in records["record"] if setting in record.settings})
    return "" if not values else f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"
