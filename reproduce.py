"""Run the notebooks in order and end with the verdicts.

    python reproduce.py --profile cpu --compute missing --only 04 05 --set seeds=3

Every notebook runs in its own kernel (this interpreter's), with notebooks/ as working directory. The executed copy goes to
out/<profile>/, and at the end the site of all copies to out/<profile>/site/. A failing notebook does not stop the others. Each
line gives a notebook's wall time and
peak memory: the largest sum, sampled five times a second, of the resident sizes of the kernel and the processes below
it (pages that they share count once a process, so with workers the sum is an upper bound).
"""

import argparse
import ast
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import psutil
import yaml
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from docs.build import build as build_site
from glora_lib.paths import NOTEBOOKS, OUT, external_data
from glora_lib.plot import committed
from glora_lib.runs.profile import PROFILES
from glora_lib.runs.record import all_results
from glora_lib.training.threads import share

TIMEOUT = 3600  # seconds a notebook


@dataclass
class Outcome:
    """What running one notebook gave; `failure` is empty after a success."""

    seconds: float
    peak_bytes: int
    failure: str = ""


def select(folder: Path, only: list[str]) -> list[Path]:
    """Return the notebooks of `folder` in order, or those whose two-digit numbers are in `only`.

    Raises ValueError for a number that no notebook has, and for one that two have.
    """
    notebooks: dict[str, Path] = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        if (other := notebooks.setdefault(path.name[:2], path)) is not path:
            raise ValueError(f"{other.name} and {path.name} have one number; rename one of them, or move it out of {folder}")
    if unknown := [number for number in only if number.zfill(2) not in notebooks]:
        raise ValueError(f"no notebook has the number {', '.join(unknown)}; there are {', '.join(notebooks) or 'none'}")
    wanted = {number.zfill(2) for number in only} or set(notebooks)
    return [path for number, path in notebooks.items() if number in wanted]


def parameters_index(cells: list) -> int | None:
    """Return the index of the first cell tagged `parameters`, or None."""
    tagged = (index for index, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    return next(tagged, None)


def declared(notebook: Path) -> dict:
    """Return the parameters that a notebook declares, name to default.

    Raises ValueError when there is no parameters cell, when it holds more than assignments of literals, and for a file that is
    no notebook.
    """
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except Exception as error:  # nbformat's own and others', none of which names the file
        raise ValueError(f"{notebook.name} cannot be read as a notebook ({error}); restore it") from error
    if (index := parameters_index(cells)) is None:
        raise ValueError(f"{notebook.name}: no cell is tagged 'parameters'")
    defaults = {}
    for statement in ast.parse(cells[index].source).body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case _:
                raise ValueError(f"{notebook.name}: the parameters cell holds more than assignments")
        defaults[name] = ast.literal_eval(value)
    return defaults


def refuse_undeclared(notebooks: list[Path], parameters: dict) -> None:
    """Raise ValueError for a parameter that a notebook does not declare, which papermill only warns of, or of another type."""
    for notebook in notebooks:
        names = declared(notebook)
        if unknown := sorted(parameters.keys() - names.keys()):
            raise ValueError(f"{notebook.name} has no parameter {', '.join(unknown)}; it declares {', '.join(names)}")
        for name, value in parameters.items():
            if not suits(value, names[name]):
                raise ValueError(
                    f"{notebook.name}: {name} is {value!r}, {type(value).__name__}; its default is {names[name]!r}, "
                    f"{type(names[name]).__name__}"
                )


def suits(value: object, default: object) -> bool:
    """Return whether a value has the type of a parameter's default; an integer will do for a number, a list for a tuple."""
    if default is None:
        return True
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and (not default or all(suits(entry, default[0]) for entry in value))
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


class PeakMemory:
    """Context manager; afterwards `.bytes` is the peak described at the top of this file."""

    def __enter__(self) -> "PeakMemory":
        self.bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._done.wait(0.2):
            total = 0
            for process in this.children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # it ended between the two calls
                    continue
            self.bytes = max(self.bytes, total)


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels with this Python; a kernel's name may belong to any environment."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """ipykernel's own."""
        return KernelSpec(**get_kernel_dict())


def escape(path: Path) -> str:
    """Return `path` as text in which papermill finds no format field."""
    return str(path).replace("{", "{{").replace("}", "}}")


def run(notebook: Path, parameters: dict, out: Path, timeout: float = TIMEOUT) -> Outcome:
    """Run one notebook, write its executed copy into `out`; return the outcome, also of a failure.

    Raises ValueError when `out` is the notebook's own folder.
    """
    target = out / notebook.name
    if target.resolve() == notebook.resolve():
        raise ValueError(f"running {notebook} into {out} would overwrite it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # so that an older copy cannot pass for this run's
    except OSError as error:
        return Outcome(0.0, 0, f"nothing can be written to {out} ({error}); use a copy of the project that you may write to")
    if os.environ.get("GLORA_DATA_DIR"):  # the notebook's working directory is another
        os.environ["GLORA_DATA_DIR"] = str(external_data().absolute())
    begin, current = time.monotonic(), {"cell_index": 0}
    failure = ""
    with PeakMemory() as peak:
        try:
            papermill.execute_notebook(
                escape(notebook.resolve()),
                escape(target.resolve()),
                parameters,
                kernel_name="python3",
                kernel_manager_class=ThisInterpreter,
                language="python",  # stripped notebooks do not say it
                cwd=notebook.resolve().parent,
                progress_bar=False,
                on_cell_execute=current.update,
                # nbclient's timeout is a cell's: giving each what the notebook has left makes it the notebook's
                timeout_func=lambda cell: max(1, begin + timeout - time.monotonic()),
                extra_arguments=["--IPKernelApp.log_level=ERROR"],  # quiet about its loopback sockets
            )
        except Exception as error:  # also a dead kernel or a timeout, which papermill does not wrap
            failure = describe(notebook, current, error)
    return Outcome(time.monotonic() - begin, peak.bytes, failure)


def describe(notebook: Path, current: dict, error: Exception) -> str:
    """Return one line: the failing cell (index in the source notebook, first line) and the error."""
    index = getattr(error, "cell_index", current["cell_index"])  # without the attribute: a timeout, a dead kernel
    cells = nbformat.read(notebook, as_version=4).cells
    declared_at = parameters_index(cells)
    if declared_at is None or index > declared_at:
        index -= 1  # papermill inserts the injected parameters after the declared ones, or first of all
    first_line = (cells[max(index, 0)].source.strip().splitlines() or [""])[0]
    name = getattr(error, "ename", type(error).__name__)
    value = (str(getattr(error, "evalue", error)).strip().splitlines() or [""])[0]
    return f"cell {index} `{first_line}`: {name}: {value}"


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


def outcomes(notebooks: list[Path], parameters: list[dict], args: argparse.Namespace) -> Iterator[tuple[Path, Outcome]]:
    """Yield each notebook with its outcome, in order, `args.jobs` of them running at once."""
    rest = [OUT / args.profile] * len(notebooks), [args.timeout] * len(notebooks)
    if args.jobs == 1:
        for notebook, *arguments in zip(notebooks, parameters, *rest, strict=True):
            print(f"{notebook.stem:<42}", end="", flush=True)
            yield notebook, run(notebook, *arguments)
        return
    os.environ["OMP_NUM_THREADS"] = str(share(args.jobs))  # of the kernels
    # a process for each, whose children are its kernel alone, so that memory is counted a notebook
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        for notebook, outcome in zip(notebooks, pool.map(run, notebooks, parameters, *rest), strict=True):
            print(f"{notebook.stem:<42}", end="", flush=True)
            yield notebook, outcome


def report(outcome: Outcome) -> bool:
    """Print the rest of a notebook's line; return whether it failed."""
    state = "FAILED" if outcome.failure else "ok"
    print(f"{state:<7} {outcome.seconds:7.1f} s {outcome.peak_bytes / 2**30:6.2f} GiB", flush=True)
    if outcome.failure:
        print(f"    {outcome.failure}", flush=True)
    return bool(outcome.failure)


def compare_figures(profile: str, since: float, rewrite: bool) -> None:
    """Print how the figures drawn after `since` differ from the committed ones; with `rewrite`, copy those over them."""
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


def assignment(text: str) -> tuple[str, object]:
    """Return the name and the value of `name=value`.

    The value is a Python literal, as in a notebook, or a list or mapping in YAML's form (`[x, y]`) of such; `true`, `false` and
    `null` are known too. Everything else is text: nothing is read as a date, a time or an octal number.
    """
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"expected name=value, not {text!r}")
    try:
        return name, literal(value)
    except ValueError:
        pass
    try:
        return name, typed(yaml.load(value, yaml.BaseLoader))
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {' '.join(str(error).split())}; quote a text: {name}='\"...\"'") from error


def literal(text: str) -> object:
    """Return the value of a Python literal, tuples as lists; a ValueError for text that is none, or none of JSON's types."""
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return plain(value)


def plain(value: object) -> object:
    """Return a value with tuples as lists; a ValueError for sets, bytes and complex numbers."""
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(f"{value!r} is no parameter's value")
    return value


def typed(value: object) -> object:
    """Return what YAML read as text with its literals as values."""
    if isinstance(value, list):
        return [typed(entry) for entry in value]
    if isinstance(value, dict):
        return {key: typed(entry) for key, entry in value.items()}
    words = {"true": True, "false": False, "null": None}
    if not isinstance(value, str) or value in words:
        return words.get(value, "")  # nothing at all is the empty text
    try:
        return literal(value)
    except ValueError:
        return value


def above_zero(kind: type) -> Callable[[str], float]:
    """Return a type of argparse's: a finite number of a kind that is above zero."""

    def number(text: str) -> float:
        value = kind(text)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError
        return value

    number.__name__ = f"{kind.__name__} above zero"  # for argparse's message
    return number


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu", choices=PROFILES)
    parser.add_argument("--compute", default="missing", choices=("none", "missing", "all"), help="what to compute anew")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="numbers of notebooks")
    parser.add_argument("--set", nargs="+", action="extend", type=assignment, default=[], metavar="NAME=VALUE")
    parser.add_argument("--workers", type=above_zero(int), help="processes that compute runs at once; default 1")
    parser.add_argument("--scheduler", metavar="TCP", help="a Dask cluster that computes runs instead, tcp://host:8786")
    parser.add_argument(
        "--jobs", type=above_zero(int), default=1, help="notebooks at once, which share the processor's cores out"
    )
    parser.add_argument("--rewrite-figures", action="store_true", help="copy what differs from the committed figures over them")
    parser.add_argument("--timeout", type=above_zero(float), default=TIMEOUT, help="seconds a notebook")
    args = parser.parse_args(argv)
    names = [name for name, _ in args.set]
    if own := [name for name in names if name in vars(args)]:
        parser.error(f"--set {own[0]}=...: it has an option of its own, --{own[0].replace('_', '-')}")
    if twice := [name for name in names if names.count(name) > 1]:
        parser.error(f"--set gives {twice[0]} twice")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for; return 0, 1 if a notebook failed, or 2 if the command line is at fault."""
    args = arguments(argv)
    parameters = {"profile": args.profile, "compute": args.compute, **dict(args.set)}
    try:
        notebooks = select(NOTEBOOKS, args.only)
        refuse_undeclared(notebooks, parameters)
    except ValueError as error:
        print(f"reproduce.py: {error}", file=sys.stderr)
        return 2

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
    failed = sum(report(outcome) for _, outcome in outcomes(notebooks, given, args))

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
