"""The verdict table: every claim with what came out here, its verdict, and where the evidence is; its four parts, tallied."""

import pandas as pd

from glora_lib.audit import (
    counts,
    dimensions,
    equations,
    measured,
    other_models,
    protocol,
    selection,
    superlora,
    superlora_runs,
    superlora_table3,
    superset,
    table1,
    tables,
    theorem,
)
from glora_lib.audit.judge import OWN, VERDICTS, Check, Judged
from glora_lib.audit.sources import PAPERS, claims
from glora_lib.runs.paths import NOTEBOOKS
from glora_lib.runs.profiles import PROFILES

COLUMNS = [
    *("id", "place", "reported", "ours", "verdict", "evidence", "source", "kind", "basis"),
    *("by_task", "by_pip", "visible", "scale"),  # of runs at another scale, `judge.Judged`
]
PARTS = {
    "exact": "Exact checks: equations, counts, arithmetic, code, and what reviewers objected",
    "at scale": "Runs at another scale than the papers'",
    "paper scale": "What only a run at the papers' scale can decide",
    "ours": "Our own questions, which no sentence of the papers answers; outside both tallies",
}
MODULES = (
    table1,
    tables,
    protocol,
    counts,
    dimensions,
    equations,
    theorem,
    superset,
    selection,
    superlora,
    superlora_table3,
    measured,
    other_models,
    superlora_runs,
)
CHECKS: dict[str, Check] = {identity: check for module in MODULES for identity, check in module.CHECKS.items()}
AT_SCHEDULE = ("10_vtab1k", "At-the-paper's-schedule")  # where the notebook has the records of a profile that has rows
AVERAGES = "99_verdict.ipynb#Tables-recomputed"  # the evidence of every recomputed average


def verdicts(profile: str, notebook: str = "") -> pd.DataFrame:
    """Return the verdict table of a profile: first the claims, then every printed average of Tables 1, 2 and 6.

    With the name of a notebook ("03_search_space") the claims alone whose evidence is there; a ValueError if there are none.

    Columns: id, place in the paper, reported, ours, verdict, evidence (notebook#section); source, kind and basis as in
    data/claims.csv, where a printed average has the kind "average"; by_task, by_pip, visible and scale of `judge.Judged`.
    Exact checks run at every call; measured ones read the profile's records.
    """
    said = claims()
    if notebook:
        if notebook not in (valid := sorted(set(said["notebook"]))):
            raise ValueError(f"no claim has its evidence in {notebook!r}; valid: {', '.join(valid)}")
        said = said[said["notebook"] == notebook]
    rows = [judged(claim, profile) for _, claim in said.iterrows()]
    for row in () if notebook else tables.recomputed().itertuples():
        extra = ("glora-iclr", "average", "internal", "", "", "", "")
        rows.append((row.id, row.place, f"{row.reported:g}", f"{row.ours:.2f}", row.verdict, f"notebooks/{AVERAGES}", *extra))
    return pd.DataFrame(rows, columns=COLUMNS)


def runs(profile: str) -> pd.DataFrame:
    """Return the rows of `verdicts` that read a profile's records, ours too, without those that are not run."""
    said = claims()
    table = pd.DataFrame([judged(claim, profile) for _, claim in said[said["kind"] == "measured"].iterrows()], columns=COLUMNS)
    return table[~table["verdict"].isin(("not run", "not testable here"))]


def judged(claim: pd.Series, profile: str) -> tuple:
    """Return one row of the verdict table. A claim with a reason why it cannot be tested is not testable, whatever else."""
    if claim["why_not"]:
        found = Judged(claim["why_not"], "not testable here" if claim["kind"] == "measured" else "not testable")
    else:
        found = Judged(*CHECKS[claim.name](claim, profile))
    if claim["source"] == "ours":
        found = found._replace(verdict=OWN.get(found.verdict, found.verdict))
    about = (claim["source"], claim["kind"], claim["basis"])
    return (claim.name, claim["place"], claim["reported"], *found[:2], evidence(claim, profile), *about, *found[2:])


def evidence(claim: pd.Series, profile: str) -> str:
    """Return where the evidence of a claim is: notebooks/NAME.ipynb#Section, or notebook 99 as long as NAME does not exist."""
    name, section = claim["notebook"], claim["section"].replace(" ", "-")
    if PROFILES[profile].rows and name == AT_SCHEDULE[0]:
        section = AT_SCHEDULE[1]
    if not (NOTEBOOKS / f"{name}.ipynb").exists():
        name, section = "99_verdict", "Every-table-and-figure"
    return f"notebooks/{name}.ipynb" + (f"#{section}" if section else "")


def part(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return one of PARTS: evidence of different kinds is never counted together."""
    if name not in PARTS:
        raise ValueError(f"no part {name!r}; valid: {', '.join(PARTS)}")
    part_of = table["kind"].map({"measured": "at scale", "paper-scale": "paper scale"}).fillna("exact")
    return table[part_of.mask(table["source"] == "ours", "ours") == name]


def select(table: pd.DataFrame, source: str = "", kind: str = "", verdict: str = "") -> pd.DataFrame:
    """Return the rows of one source, kind or verdict ("" for all); a ValueError names what is valid."""
    for column, wanted in (("source", source), ("kind", kind), ("verdict", verdict)):
        valid = list(PAPERS) if column == "source" else sorted(set(table[column]))
        if wanted and wanted not in valid:
            raise ValueError(f"no claim has the {column} {wanted!r}; valid: {', '.join(valid)}")
        table = table[table[column] == wanted] if wanted else table
    return table


def tally(table: pd.DataFrame, by: str = "kind") -> pd.DataFrame:
    """Return how many claims of a part have which verdict: a row for each `by`, in the order of first appearance, and a sum.

    Raises ValueError for a table that joins evidence of several kinds.
    """
    joined = [name for name in PARTS if len(part(table, name))]
    if len(joined) > 1:
        raise ValueError(f"one tally a part; this table joins {', '.join(joined)}")
    found = pd.crosstab(table[by], table["verdict"]).reindex(index=dict.fromkeys(table[by]))
    found = found.reindex(columns=[verdict for verdict in VERDICTS if verdict in found])
    if len(found) > 1:
        found.loc["all"] = found.sum()
    return found.assign(all=found.sum(axis=1))
