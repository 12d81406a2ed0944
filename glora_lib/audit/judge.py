"""From a reported and a recomputed value to a verdict. Pure functions; no verdict is typed by hand."""

from collections.abc import Callable

import pandas as pd

VERDICTS = {
    "match": "within the tolerance set beforehand, or the statement holds",
    "near": "within twice the tolerance",
    "off": "farther than twice the tolerance",
    "direction": "the order holds, the number is another setting's",
    "contradicted": "the count differs, or the statement does not hold; a measured one: in this profile's setting",
    "not run": "needs records that do not exist, or more seeds",
    "not testable": "nothing here can decide it, and the table says why",
}
Check = Callable[[pd.Series, str], tuple[str, str]]  # a claim and a profile's name -> what came out here, and the verdict


def number(reported: float, ours: float, tolerance: float) -> str:
    """Return the verdict on a number: match within `tolerance`, near within twice that, else off."""
    gap = abs(ours - reported)
    return "match" if gap <= tolerance + 1e-9 else "near" if gap <= 2 * tolerance + 1e-9 else "off"


def exact(reported, ours) -> str:
    """Return the verdict on a count or a statement: it holds or it does not."""
    return "match" if ours == reported else "contradicted"


def value(compute: Callable[[], float], form: str = "{:.2f}") -> Check:
    """Return the check of a reported number against `compute()`, with the claim's tolerance, shown as `form`."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        ours = compute()
        return form.format(ours), number(_number(claim["reported"]), ours, float(claim["tolerance"]))

    return check


def count(compute: Callable[[], int], form: str = "{:,}") -> Check:
    """Return the check of a reported count against `compute()`: equal or contradicted."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        ours = compute()
        return form.format(ours), exact(_number(claim["reported"]), ours)

    return check


def statement(compute: Callable[[], tuple[bool, str]]) -> Check:
    """Return the check of a sentence: `compute()` says whether it holds, and what was found."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        holds, found = compute()
        return found, exact(True, bool(holds))

    return check


def _number(text: str) -> float:
    """Return a reported number, which may have separators of thousands, such as 20,736."""
    return float(str(text).replace(",", ""))
