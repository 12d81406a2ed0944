"""Threads: how many a process may use, so that several at once do not fight for the processor.

Torch takes as many threads as there are cores. That is right for one run alone. Several runs that each take all cores wait for
one another at the end of every product, which makes them many times slower than one thread each would.
"""

import os


def cores() -> int:
    """Return the processor's cores that this process may run on, which may be fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux tells
        return os.cpu_count() or 1


def share(workers: int = 1) -> int:
    """Return the threads for each of `workers` processes at once, for `torch.set_num_threads`: an equal share, at least one.

    Raises ValueError for less than one worker.
    """
    if workers < 1:
        raise ValueError(f"there must be a worker at least, not {workers}")
    return max(1, cores() // workers)
