"""Run notebooks, each in a kernel of its own (this interpreter's) with notebooks/ as working directory.

Memory is the largest sum, sampled five times a second, of the resident sizes of the kernel and the processes below it (pages
that they share count once a process, so with workers the sum is an upper bound).
"""

import ast
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import nbformat
import papermill
import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from glora_lib.runs.paths import external_data
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
    """Context manager; afterwards `.bytes` is the peak of what was started below this process, see the top of this file.

    What ran there before does not count: the kernel of the notebook before may still be ending.
    """

    def __enter__(self) -> "PeakMemory":
        self.bytes, self._done = 0, threading.Event()
        self._before = set(psutil.Process().children(recursive=True))
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
            for process in set(this.children(recursive=True)) - self._before:
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


def outcomes(
    notebooks: list[Path], parameters: list[dict], out: Path, jobs: int = 1, timeout: float = TIMEOUT
) -> Iterator[Outcome]:
    """Print each notebook's name and yield its outcome, in order, `jobs` of them running at once."""
    rest = [out] * len(notebooks), [timeout] * len(notebooks)
    if jobs == 1:
        for notebook, *arguments in zip(notebooks, parameters, *rest, strict=True):
            print(f"{notebook.stem:<42}", end="", flush=True)
            yield run(notebook, *arguments)
        return
    os.environ["OMP_NUM_THREADS"] = str(share(jobs))  # of the kernels
    # a process for each, whose children are its kernel alone, so that memory is counted a notebook
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for notebook, outcome in zip(notebooks, pool.map(run, notebooks, parameters, *rest), strict=True):
            print(f"{notebook.stem:<42}", end="", flush=True)
            yield outcome


def report(outcome: Outcome) -> bool:
    """Print the rest of a notebook's line; return whether it failed."""
    state = "FAILED" if outcome.failure else "ok"
    print(f"{state:<7} {outcome.seconds:7.1f} s {outcome.peak_bytes / 2**30:6.2f} GiB", flush=True)
    if outcome.failure:
        print(f"    {outcome.failure}", flush=True)
    return bool(outcome.failure)
