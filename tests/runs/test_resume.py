"""Killed with SIGKILL anywhere and started again, a run ends as one that was never killed.

The run is a process of its own: `fixtures/interrupted_run.py` trains a supernet (2 epochs of 3 steps) and searches it (3
generations of 8 subnets), with a checkpoint each.
"""

import json
import multiprocessing
import random
import signal
import time

import pytest
from fixtures.interrupted_run import run


@pytest.fixture(scope="module")
def processes():
    """A server that has torch and timm imported already and from which every run is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["glora_lib", "timm.models.vision_transformer"])
    return context


@pytest.fixture(scope="module")
def undisturbed(processes, tmp_path_factory) -> dict:
    """What a run gives that is never killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert once(processes, folder) == 0
    return json.loads((folder / "result.json").read_text())


def once(processes, folder, kill_at=None) -> int:
    """Start the run and wait for its end; return its exit code, which is -9 if it was killed."""
    process = processes.Process(target=run, args=(str(folder), kill_at))
    process.start()
    process.join()
    return process.exitcode


def test_runs_without_a_kill_agree_and_the_search_found_something(processes, undisturbed, tmp_path):
    assert once(processes, tmp_path) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == undisturbed
    assert len(undisturbed["ranking"]) == 24
    assert undisturbed["accuracy"] > 1 / 3


@pytest.mark.parametrize(
    "kills",
    [
        [("step", 1)],
        [("step", 2)],
        [("before rename", 1)],  # the first checkpoint is written, but not yet in its place
        [("after rename", 1)],
        [("step", 5)],
        [("before rename", 2)],
        [("after rename", 2)],  # trained, nothing searched
        [("score", 1)],
        [("score", 5)],
        [("before rename", 3)],
        [("after rename", 3)],  # the first generation is whole
        [("score", 13)],
        [("score", 24)],
        [("before rename", 5)],
        [("after rename", 5)],  # all done but for the result
        [("step", 2), ("step", 4), ("step", 1), ("score", 3), ("score", 9), ("before rename", 1), ("score", 8)],
    ],
    ids=lambda kills: ", ".join(f"{event} {number}" for event, number in kills),
)
def test_killed_at_an_exact_moment_it_ends_the_same(processes, undisturbed, tmp_path, kills):
    for kill_at in kills:
        assert once(processes, tmp_path, kill_at) == -signal.SIGKILL
        assert not (tmp_path / "result.json").exists()
    assert once(processes, tmp_path) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == undisturbed


def test_killed_from_outside_at_any_moment_it_ends_the_same(processes, undisturbed, tmp_path):
    """The moments are drawn at random and come later and later, so that the run ends at last."""
    rng, killed = random.Random(0), 0
    for attempt in range(1, 200):
        process = processes.Process(target=run, args=(str(tmp_path),))
        process.start()
        process.join(timeout=rng.uniform(0, 0.004 * attempt**1.5))
        if process.exitcode is None:
            process.kill()
            killed += 1
        process.join()
        if process.exitcode == 0:
            break
        time.sleep(0.01)
    assert killed > 0
    assert json.loads((tmp_path / "result.json").read_text()) == undisturbed
