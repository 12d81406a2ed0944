"""A grid that is killed ten times and started again ends with the records of one that never was."""

import json
import multiprocessing
import random
from pathlib import Path

import pytest
from fixtures.killed_grid import RUNS, compute


@pytest.fixture(scope="module")
def processes():
    """A server that has the library imported already and from which every grid is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fixtures.killed_grid", "timm.models.vision_transformer"])
    return context


def start(processes, folder: Path, together: bool, seconds: float | None = None) -> int:
    """Compute in a process of its own, killed after some seconds; return its exit code."""
    process = processes.Process(target=compute, args=(str(folder), together))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def content(folder: Path) -> dict:
    """Return what the records say, but for times and where they were made; every one must be whole."""
    found = {path.stem: json.loads(path.read_text()) for path in folder.rglob("killed/*.json")}
    return {name: [record[part] for part in ("metrics", "config", "selected_on", "settings")] for name, record in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
def test_ten_kills_at_random_moments_leave_the_same_records(processes, tmp_path, together):
    assert start(processes, tmp_path / "undisturbed", together) == 0
    rng, kills = random.Random(0), 0
    while kills < 10:
        kills += start(processes, tmp_path / "killed", together, rng.uniform(0.1, 1.5)) == -9
        if len(content(tmp_path / "killed")) == len(RUNS):  # all done sooner than ten kills: begin anew
            assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
            (tmp_path / "killed").rename(tmp_path / f"killed {kills}")
    assert start(processes, tmp_path / "killed", together) == 0
    expected = content(tmp_path / "undisturbed")
    assert sorted(expected) == sorted(run.id for run in RUNS)
    assert content(tmp_path / "killed") == expected
