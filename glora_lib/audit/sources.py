"""What the papers say, as tables: the claims with their quotes, the reported numbers, and the settings."""

from functools import lru_cache
from pathlib import Path

import pandas as pd

from glora_lib.runs.paths import DATA, REPORTED

PAPERS = {
    "glora-iclr": "GLoRA, ICLR 2024 submission",
    "glora-v1": "GLoRA, arXiv:2306.07967v1",
    "superlora": "SuperLoRA, BMVC 2024 (TR2024-156)",
    "reviews": "Reviewers of GLoRA, ICLR 2024",
    "ours": "Our own questions, which no sentence of the papers answers",
}
KINDS = ("arithmetic", "equation", "count", "code", "simulation", "measured", "paper-scale", "objection")
BASES = {
    "internal": "the paper's own numbers, held against one another",
    "independent": "equations, shapes or published code, without the number that is checked",
    "fitted": "a free quantity was chosen so that the number comes out: consistent, and no more evidence than that",
    "records": "our own runs",
    "none": "nothing yet",
}


def claims() -> pd.DataFrame:
    """Return data/claims.csv, indexed by id, every entry as text.

    One row a fact. Columns: source (a key of PAPERS; "ours" is a question that the quote prompts and does not answer), place
    (all places that say it, "; " between them), quote (exact; "[...]" joins two), kind, basis, reported, tolerance (set before
    anything was computed), check (how it is checked), notebook and section (where the evidence is), why_not (for what cannot
    be tested).
    """
    return _read(DATA / "claims.csv").set_index("id")


def reported(name: str) -> pd.DataFrame:
    """Return data/reported/<name>.csv: id, place, what the row is about, value, unit, tolerance, source."""
    table = _read(REPORTED / f"{name}.csv")
    for column in ("value", "tolerance", "reported_params_m", "shots"):
        if column in table and (numbers := pd.to_numeric(table[column], errors="coerce")).notna().all():
            table[column] = numbers
    return table


def setting(name: str) -> float:
    """Return one of the settings that the papers or published code state (data/reported/settings.csv)."""
    table = reported("settings").set_index("name")["value"]
    if not table[name]:
        raise ValueError(f"the papers do not give {name!r}")
    return float(table[name])


def _read(path: Path) -> pd.DataFrame:
    return _read_once(path, path.stat().st_mtime_ns).copy()


@lru_cache(maxsize=32)
def _read_once(path: Path, changed: int) -> pd.DataFrame:
    """Read a file again only when it has changed: the checks read the same tables dozens of times."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)
