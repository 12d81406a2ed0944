"""Run the notebooks in order and end with figures, verdicts, records and the site.

    python reproduce.py --profile cpu --compute missing --only 04 05 --set seeds=3
    python reproduce.py --profile gpu --minutes 9          no notebook: records that its tables lack, the most valuable first

Executed copies go to out/<profile>/, the site of all copies to out/<profile>/site/. A failing notebook does not stop the
others. Each line gives a notebook's wall time and peak memory (`docs/execute.py`).
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

import pandas as pd

from glora_lib.backbones import BackboneError, weights_sha256
from glora_lib.data import unavailable
from glora_lib.runs import pack
from glora_lib.runs.grid import fill
from glora_lib.runs.paths import NOTEBOOKS, OUT
from glora_lib.runs.plan import plan
from glora_lib.runs.profile import Profile
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.record import all_results
from glora_lib.training import deadline
from glora_lib.training.device import DeviceError, device


def list_records(profile: str, since: str) -> pd.DataFrame:
    """Write out/<profile>/records.csv, a line for every record of the profile; return what it holds.

    Columns: experiment, task, method, seed, selected_on, commit and time of its run, processor, and `new`: whether it was made
    at or after `since`, a UTC time as records have it.
    """
    table = all_results(profile)
    origin = pd.DataFrame([record.provenance for record in table["record"]], columns=["commit", "time", "processor"])
    names = ["experiment", "task", "method", "seed", "selected_on"]
    listed = table[names].join(origin).assign(new=origin["time"] >= since)
    (OUT / profile).mkdir(parents=True, exist_ok=True)
    listed.to_csv(OUT / profile / "records.csv", index=False)
    return listed


def compare_figures(profile: str, since: float, rewrite: bool) -> None:
    """Print how the figures drawn after `since` differ from the committed ones; with `rewrite`, copy those over them."""
    from glora_lib.plot import committed

    figures = committed.compare(PROFILES[profile], since)
    if not figures:
        return
    different = [figure for figure in figures if figure.difference]
    print(f"\n{len(figures) - len(different)} of {len(figures)} figures are the committed ones but for rounding")
    print(*(f"    {figure.name} {figure.difference}" for figure in different), sep="\n")
    if rewrite:
        print(*(f"    rewritten: {path}" for path in committed.rewrite(PROFILES[profile], figures)), sep="\n")
    elif different:
        print(f"    they are in {OUT / profile / 'figures'}; `make figures` makes them the committed ones")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    from docs.values import above_zero, assignment

    number, count = above_zero(float), above_zero(int)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu", choices=PROFILES)
    parser.add_argument("--compute", default="missing", choices=("none", "missing", "all"), help="what to compute anew")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="numbers of notebooks")
    parser.add_argument("--set", nargs="+", action="extend", type=assignment, default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--device", help="auto (a GPU where there is one), cpu, cuda, cuda:1; default: the environment's DEVICE"
    )
    parser.add_argument("--workers", type=count, help="processes that compute runs at once, one a GPU; default 1")
    parser.add_argument("--scheduler", metavar="TCP", help="a Dask cluster that computes runs instead, tcp://host:8786")
    parser.add_argument(
        "--minutes", type=number, help="compute the profile's runs, the most valuable first, for so long, and stop"
    )
    parser.add_argument("--packed", metavar="FOLDER", help="take weights and tasks from a pack (python -m glora_lib.runs.pack)")
    parser.add_argument("--jobs", type=count, default=1, help="notebooks at once, which share the processor's cores out")
    parser.add_argument("--rewrite-figures", action="store_true", help="copy what differs from the committed figures over them")
    parser.add_argument("--timeout", type=number, default=3600, help="seconds a notebook")
    args = parser.parse_args(argv)
    if args.minutes and args.compute != "missing":
        parser.error(f"--minutes computes what is missing, not {args.compute!r}; leave --compute out")
    names = [name for name, _ in args.set]
    if own := [name for name in names if name in vars(args)]:
        parser.error(f"--set {own[0]}=...: it has an option of its own, --{own[0].replace('_', '-')}")
    if twice := [name for name in names if names.count(name) > 1]:
        parser.error(f"--set gives {twice[0]} twice")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; return 0, 1 if something failed, or 2 if the command line is at fault."""
    args = arguments(argv)
    if args.device:
        os.environ["DEVICE"] = args.device  # of the kernels and of whatever they start
    try:
        device()
        if args.packed:
            pack.use(Path(args.packed))
        refuse_without_weights(PROFILES[args.profile])
        return fill_for(args) if args.minutes else run_notebooks(args)
    except (DeviceError, ValueError) as error:
        print(f"reproduce.py: {error}", file=sys.stderr)
        return 2


def refuse_without_weights(profile: Profile) -> None:
    """Raise ValueError where the profile's weights, or all of its tasks, are not here."""
    try:
        weights_sha256(profile.backbone, profile.weights)
    except BackboneError as error:
        raise ValueError(f"the profile {profile.name} cannot be run here: {error}") from error
    if all(reasons := [unavailable(name, profile) for name in profile.tasks]):
        raise ValueError(f"the profile {profile.name} cannot be run here, for lack of tasks: {reasons[0]}")


def announce(profile: Profile) -> None:
    """Print where will be computed, and which tasks are left out since their data are not here."""
    missing = [name for name in profile.tasks if unavailable(name, profile)]
    left_out = f"; left out, since their data are not here: {', '.join(missing)}" if missing else ""
    print(f"profile {profile.name}, on {device()}{left_out}", flush=True)


def fill_for(args: argparse.Namespace) -> int:
    """Compute the profile's missing runs until time is up; return 0. Each record is there as soon as its run has ended."""
    announce(PROFILES[args.profile])
    start, end = time.time(), time.monotonic() + 60 * args.minutes
    missing = [run for run in plan(PROFILES[args.profile]) if not run.exists()]
    print(f"{len(missing)} runs have no record; {args.minutes:g} minutes", flush=True)
    tell = lambda line: print(line, flush=True)  # noqa: E731
    try:
        with deadline.until(end):
            fill(missing, workers=args.workers or 1, scheduler=args.scheduler, keep_going=True, say=tell)
    except deadline.OutOfTime as error:
        tell(error)
    finally:  # also of the records before an error
        left = [run for run in missing if not run.exists()]
        print(f"{len(missing) - len(left)} new records, {len(left)} runs are left")
        if args.packed:
            print(f"the records: {pack.collect(Path(args.packed), args.profile, start)}")
    return 0


def run_notebooks(args: argparse.Namespace) -> int:
    """Run the notebooks, and print what came out; return 0, or 1 if a notebook or the site failed."""
    from docs.build import build as build_site
    from docs.execute import declared, outcomes, refuse_undeclared, report, select

    parameters = {"profile": args.profile, "compute": args.compute, **dict(args.set)}
    notebooks = select(NOTEBOOKS, args.only)
    refuse_undeclared(notebooks, parameters)
    announce(PROFILES[args.profile])
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # a failure gets its line here
    # For the kernels: figures go into the notebook whatever the shell says, and no warning about frozen modules does.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm asks for widgets, which a headless run does not show

    # what only some notebooks take: the profile's parameters, and how runs are computed
    some = dict(PROFILES[args.profile].parameters)
    some |= {name: value for name in ("workers", "scheduler") if (value := getattr(args, name)) is not None}
    start = time.time()
    given = [{name: value for name, value in some.items() if name in declared(path)} | parameters for path in notebooks]
    failed = sum(map(report, outcomes(notebooks, given, OUT / args.profile, args.jobs, args.timeout)))

    from glora_lib.audit import verdicts  # only now: it reads the records that the notebooks have just written

    table = verdicts(args.profile)
    if len(table):
        shown = table.filter(["id", "reported", "ours", "verdict"])  # notebook 99 and `python -m glora_lib.audit` have it all
        print(f"\n{shown.to_string(index=False, max_colwidth=60)}")
    compare_figures(args.profile, start, args.rewrite_figures)
    records = list_records(args.profile, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start)))
    print(f"\nrecords, each one in {OUT / args.profile / 'records.csv'}; new: computed by this run")
    counts = records.groupby("experiment")["new"].agg(["size", "sum"])
    print(*(f"    {row.Index:<24}{row.size:5} records, {row.sum} new" for row in counts.itertuples()), sep="\n")
    try:
        page, wrong = build_site(OUT / args.profile), False
    except RuntimeError as error:
        page, wrong = error, True
    print(f"\n{len(notebooks) - failed} of {len(notebooks)} notebooks ran; the site: {page}")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
