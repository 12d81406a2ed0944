"""A moment by which computing is to stop: whoever trains or searches keeps what it has, and goes on another time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_moment: ContextVar[float | None] = ContextVar("moment", default=None)


class OutOfTime(Exception):
    """Computing stopped at its deadline; what is finished so far is kept, and goes on from there."""


@contextmanager
def until(moment: float | None) -> Iterator[None]:
    """While it lasts, `check` raises OutOfTime after `moment`, a time of `time.monotonic`; None is never."""
    token = _moment.set(moment)
    try:
        yield
    finally:
        _moment.reset(token)


def left() -> float | None:
    """Return how many seconds there are until the moment, negative once it is over; None without one."""
    moment = _moment.get()
    return None if moment is None else moment - time.monotonic()


def passed() -> bool:
    """Return whether the moment is over."""
    seconds = left()
    return seconds is not None and seconds < 0


def check(done: str) -> None:
    """Raise OutOfTime, which says what is `done`, when the moment is over; called where everything has been kept."""
    if passed():
        raise OutOfTime(f"time is up: {done}")
