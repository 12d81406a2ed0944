"""Runs of the main table computed once more, from nothing: does a recorded number come out again on another day?

python -m glora_lib.recompute --number 6 --seed 1                 draw six records, compute them again, print the comparison
python -m glora_lib.recompute --number 3 --method full            three of full fine-tuning
"""

import argparse
import math
import random
import sys
from dataclasses import replace

import pandas as pd

from glora_lib.data import unavailable
from glora_lib.runs.grid import fill
from glora_lib.runs.profile import Profile
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.record import Record, folder, results
from glora_lib.runs.run import Run

FIRST, AGAIN = "vtab1k", "recomputed"  # the experiments that hold the first records and the second ones
SAME = ("commit", "packages", "processor", "capability", "device", "dtype", "threads")  # then every bit must come again


def draw(profile: Profile, number: int, seed: int, method: str = "") -> list[Run]:
    """Return `number` runs drawn from the main table's records, as runs of the experiment "recomputed".

    Only records with the profile's settings, whose data are here; of one method, if it is named. Raises ValueError when there
    are fewer than `number`.
    """
    runs = [Run(FIRST, row.task, row.method, profile, row.seed) for row in results(FIRST, profile.name).itertuples()]
    runs = [run for run in runs if not method or run.method == method]
    runs = [run for run in runs if run.exists() and not unavailable(run.task, profile)]
    if not 0 <= number <= len(runs):
        whose = f" of {method}" if method else ""
        raise ValueError(f"number {number} is not between 0 and {len(runs)}, the records{whose} with the profile's settings")
    return [replace(run, experiment=AGAIN) for run in random.Random(seed).sample(runs, number)]


def tolerance(first: Record, again: Record) -> int:
    """Return by how many test images two records of one run may differ; the second one's accuracy is not looked at.

    None on the same code, packages, processor and threads. Elsewhere sums are rounded otherwise and a training takes another
    path: then sqrt(2 p (1 - p) n) images, one standard error of the difference that two samples of n images would show. These
    are the same images, so that less is to be expected.
    """
    if all(first.provenance.get(name) == again.provenance.get(name) for name in SAME):
        return 0
    p, n = first.metrics["test"], first.metrics["n_test"]
    return math.floor(math.sqrt(2 * p * (1 - p) * n))


def compare(profile: str) -> pd.DataFrame:
    """Return a row for each run that was computed again: both accuracies in percent, and how many images lie between them.

    Columns: task, method, seed, first, again (percent), images (again - first), n_test, tolerance (images), within, choices
    (the share of the configuration's choices that are the same; NaN without one), code, code again (commits).
    """
    rows = []
    for again in results(AGAIN, profile)["record"]:
        first = Record.load(folder(FIRST, profile) / f"{again.id}.json")
        n = first.metrics["n_test"]
        images, allowed = round((again.metrics["test"] - first.metrics["test"]) * n), tolerance(first, again)
        rows.append(
            {
                **{"task": again.task, "method": again.method, "seed": again.seed},
                **{"first": 100 * first.metrics["test"], "again": 100 * again.metrics["test"]},
                **{"images": images, "n_test": n, "tolerance": allowed, "within": abs(images) <= allowed},
                "choices": _same_choices(first.config, again.config),
                **{"code": first.provenance["commit"][:10], "code again": again.provenance["commit"][:10]},
            }
        )
    columns = ("task", "method", "seed", "first", "again", "images", "n_test", "tolerance", "within", "choices", "code")
    return pd.DataFrame(rows, columns=[*columns, "code again"])


def _same_choices(first: dict | None, again: dict | None) -> float:
    if not first:
        return math.nan
    return sum(choice == again.get(name) for name, choice in first.items()) / len(first)


def main(argv: list[str] | None = None) -> int:
    """Compute what the command line asks for; return 1 if a record lies beyond its tolerance."""
    parser = argparse.ArgumentParser(prog="python -m glora_lib.recompute", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu", choices=PROFILES)
    parser.add_argument("--number", type=int, default=1, help="of records")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--method", default="", help="records of one method alone")
    parser.add_argument("--workers", type=int, default=1, help="processes that compute at once")
    options = parser.parse_args(argv)
    runs = draw(PROFILES[options.profile], options.number, options.seed, options.method)
    fill(runs, "all", options.workers)
    table = compare(options.profile)
    print(table.to_string(index=False, float_format="{:.1f}".format))
    return int(not table["within"].all())


if __name__ == "__main__":
    sys.exit(main())
