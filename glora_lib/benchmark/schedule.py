"""What the paper's schedule takes, by operations: 500 epochs and 1,050 evaluations on each of 19 tasks (App. A and B)."""

import numpy as np
import pandas as pd

from glora_lib.runs.record import Record

EPOCHS, EVALUATIONS, TASKS = 500, 1050, 19
IMAGES = 12 * 64  # an epoch's: the authors drop the last, smaller batch of 800 images
VALIDATION = 200


def rates(record: Record) -> pd.Series:
    """Return operations a second that were reached on the measured machine: by a supernet's step, and by a forward pass."""
    operations, seconds = record.history["operations"], record.history["steps"]["float32"]
    return pd.Series({
        "training": operations["supernet"] / np.median(seconds["supernet"]),
        "evaluation": operations["forward"] / np.median(seconds["forward, base"]),
    })  # fmt: skip


def hours(record: Record, forward: float, rate: pd.Series) -> pd.Series:
    """Return the hours of training, of evaluation and of both, of all 19 tasks.

    Args:
        forward: operations of one image in a forward pass. A step takes as many times more as counted in the record.
        rate: operations a second, as `rates` returns them.
    """
    operations = record.history["operations"]
    train = TASKS * EPOCHS * IMAGES * forward * operations["supernet"] / operations["forward"]
    evaluate = TASKS * EVALUATIONS * VALIDATION * forward
    parts = pd.Series({"training": train / rate["training"], "evaluation": evaluate / rate["evaluation"]}) / 3600
    return pd.concat([parts, pd.Series({"together": parts.sum()})])


def hours_on_device(record: Record) -> pd.DataFrame:
    """Return the hours of all 19 tasks by the steps of a `benchmark.device` record, a row a model and number format.

    Columns: training one task at a time, training as many at once as were measured, the search with its candidates scored as
    one batch, and both sums. Nothing else is counted, neither data nor start. NaN where a step failed.
    """
    rows = {}
    for name, part in record.history.items():
        many = next(step for step in part["runs"] if step.startswith("supernet, "))
        score = next(step for step in part["runs"] if step.startswith("score"))
        seconds = {step: float(np.median(part["seconds"].get(step, np.nan))) for step in ("supernet", many, score)}
        steps = TASKS * EPOCHS * (IMAGES // record.settings["batch"])
        search = TASKS * EVALUATIONS * seconds[score] / part["runs"][score]
        alone, joint = steps * seconds["supernet"], steps * seconds[many] / part["runs"][many]
        columns = ("training", f"training, {many.removeprefix('supernet, ')}", "search", "together", "together, at once")
        rows[name] = pd.Series([alone, joint, search, alone + search, joint + search], index=columns) / 3600
    return pd.DataFrame(rows).T
