"""A reproducibility checklist in the manner of NeurIPS's, answered from records; what was spent; licences."""

from importlib.metadata import PackageNotFoundError, metadata

import pandas as pd

from glora_lib.audit.desk import PARTS, part
from glora_lib.audit.intervals import SEEDS
from glora_lib.measures.origin import by_pip_alone
from glora_lib.measures.transfer import by_shots
from glora_lib.recompute import AGAIN, compare
from glora_lib.runs.paths import DATA
from glora_lib.runs.record import all_results


def spent(profile: str) -> pd.DataFrame:
    """Return what the records cost: a row per experiment with runs, hours of each stage, and the largest memory in GB.

    Hours are those of the processes that ran; failed and discarded runs leave no record and are not in it.
    """
    table = all_results(profile)
    rows = []
    for name, runs in table.groupby("experiment"):
        costs = pd.DataFrame([record.cost for record in runs["record"]])
        hours = costs.filter(like="seconds_").sum() / 3600
        rows.append({"experiment": name, "runs": len(runs), **{k.removeprefix("seconds_"): v for k, v in hours.items()}})
        rows[-1] |= {"hours": hours.sum(), "peak GB": costs.get("peak_memory_mb", pd.Series(dtype=float)).max() / 1024}
    found = pd.DataFrame(rows, columns=None if rows else ["experiment", "runs", "hours", "peak GB"])
    stages = [column for column in found if column not in ("experiment", "runs", "hours", "peak GB")]
    return found[["experiment", "runs", *stages, "hours", "peak GB"]]


def licences() -> pd.DataFrame:
    """Return data/licences.csv with a last column `metadata`: the licence that the installed package declares."""
    table = pd.read_csv(DATA / "licences.csv", keep_default_na=False)
    return table.assign(metadata=[_declared(package) if package else "" for package in table["package"]])


def checklist(verdicts: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Return question, answer, detail: computed from the records of a profile and from its verdicts."""
    table = all_results(profile)
    origin = pd.DataFrame([record.provenance for record in table["record"]])
    seeds = seeds_of_rows(table)
    selected = table["selected_on"].value_counts()
    cost = spent(profile)
    clean = origin.empty or not origin["dirty"].any()
    whole = all(record.settings and record.metrics for record in table["record"])
    oracle = table[table["selected_on"].str.startswith("test", na=False)]
    again, paper = compare(profile), len(all_results("paper"))
    bounds = len(oracle) > 0 and oracle["method"].str.endswith("oracle").all()  # rows that say so
    undecided = verdicts["verdict"].isin(["not testable", "not testable here"])
    tallies = {name: part(verdicts, name)["verdict"].value_counts() for name in PARTS if name in ("exact", "at scale")}
    against = tallies["exact"].get("contradicted", 0) + tallies["exact"].get("off", 0)
    plain = int(table["task"].map(by_pip_alone).sum())
    rows = [
        (
            "Do the claims match the evidence?",
            "in part" if against else "yes",
            "; ".join(
                f"{name}: " + ", ".join(f"{n} {verdict}" for verdict, n in counted.items()) for name, counted in tallies.items()
            ),
        ),
        ("Are limits stated?", "yes", f"{undecided.sum()} claims are not testable, each with its reason"),
        (
            "Are assumptions of theory checked?",
            "yes",
            f"{verdicts['id'].str.startswith(('theorem', 'equation')).sum()} live checks and notes",
        ),
        ("Is every run's setting recorded?", _yes(whole, table), f"{len(table)} records hold their whole profile"),
        (
            "Does every record come from committed code?",
            _yes(clean, table),
            f"{table['commit'].nunique() if len(table) else 0} commits",
        ),
        (
            "Are there error bars?",
            _yes(bool((seeds >= SEEDS).all()), table),
            f"{(seeds >= SEEDS).sum()} of {len(seeds)} rows have {SEEDS} seeds",
        ),
        (
            "Is pip enough to run everything again?",
            _yes(plain == len(table), table),
            f"{len(table) - plain} of {len(table)} records need a Debian package or files of yours",
        ),
        (
            "Was anything selected on test data?",
            "in controls" if bounds else "yes" if len(oracle) else _yes(False, table),
            ", ".join(f"{name}: {n}" for name, n in selected.items()),
        ),
        (
            "Is the compute reported?",
            _yes(True, table),
            f"{cost['hours'].sum():.1f} process hours, at most {cost['peak GB'].max() if len(cost) else 0:.1f} GB",
        ),
        ("On which processors?", _yes(True, table), "; ".join(sorted(set(origin.get("processor", []))))),
        (
            "Do records come out again?",
            _yes(bool(again["within"].all()), again),
            f"{again['within'].sum()} of {len(again)} that were computed once more are within their tolerance",
        ),
        ("Are weights and data identified?", _yes(whole, table), f"{len(_digests(table))} SHA-256 digests in the records"),
        ("Are licences named?", "yes", f"{len(licences())} assets, with what their packages declare"),
        ("Is the code open?", "yes", "MIT, one command: make reproduce"),
        ("Has it been run at the paper's scale?", "yes" if paper else "no", f"{paper} records"),
    ]
    return pd.DataFrame(rows, columns=["question", "answer", "detail"])


def seeds_of_rows(table: pd.DataFrame) -> pd.Series:
    """Return how many seeds each row has: experiment, task and method; a few-shot point is a row whatever its draws are named.

    Runs that were computed again are no rows.
    """
    table = table[table["experiment"] != AGAIN]
    few_shot = by_shots(table)
    rows = pd.concat([table.drop(few_shot.index), few_shot])
    return rows.groupby(["experiment", "task", "method"])["seed"].nunique()


def _yes(holds: bool, table: pd.DataFrame) -> str:
    return "no records" if table.empty else "yes" if holds else "no"


def _digests(table: pd.DataFrame) -> set[str]:
    return {
        record.settings[name]
        for record in table["record"]
        for name in ("weights_sha256", "task_sha256")
        if record.settings.get(name)
    }


def _declared(package: str) -> str:
    """Return the licence in a package's metadata: its expression, its field if that is short, or its classifiers."""
    try:
        fields = metadata(package)
    except PackageNotFoundError:
        return "not installed"
    expression, text = fields.get("License-Expression"), fields.get("License") or ""
    classified = [c.split(" :: ")[-1] for c in fields.get_all("Classifier") or [] if c.startswith("License")]
    return expression or (text if 0 < len(text) < 60 else ", ".join(classified)) or "none declared"
