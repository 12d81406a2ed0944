"""From numbers to verdicts: pure functions, one rule for exact checks and one for runs. No verdict is typed by hand."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

EXACT = {
    "match": "within the tolerance set beforehand, or the statement holds",
    "near": "within twice the tolerance",
    "off": "farther than twice the tolerance",
    "contradicted": "an exact counter-example, or arithmetic that cannot be",
    "not run": "needs records that do not exist, or more seeds",
    "not testable": "nothing here can decide it, and the table says why",
}
AT_SCALE = {
    "seen here": "the interval over independent sources lies on the statement's side of zero",
    "not seen here": "it lies on the other side",
    "undecided here": "it spans zero, or there is one source: chance alone could turn the difference",
    "not testable here": "the noise of the measurement is wider than the statement",
    "not run": "needs records that do not exist, or more seeds",
}
OWN = {"match": "holds", "contradicted": "does not hold"}  # of our own questions, where no claim is confirmed or contradicted
VERDICTS = EXACT | AT_SCALE | dict.fromkeys(OWN.values(), "our own question, answered by an exact check")


class Judged(NamedTuple):
    """What came out here and its verdict; the rest is for runs at another scale than the paper's."""

    ours: str
    verdict: str
    by_task: str = ""  # each task once, where tasks share sources of images
    by_pip: str = ""  # over the sources that need nothing but pip
    visible: str = ""  # the smallest difference that could have been seen
    scale: str = ""


Check = Callable[[pd.Series, str], tuple]  # a claim and a profile's name -> (ours, verdict) or a Judged


def seen(low: float, high: float) -> str:
    """Return the verdict on an interval of a difference that is positive where the statement holds; NaN: there is none."""
    if low > 0:
        return "seen here"
    return "not seen here" if high < 0 else "undecided here"


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
