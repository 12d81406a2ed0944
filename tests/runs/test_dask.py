"""Runs on a Dask cluster on this machine's loopback, one of whose workers is killed in the middle."""

import os
import signal
import threading
from collections import Counter
from dataclasses import replace

import pytest

from glora_lib.runs import grid, record
from glora_lib.runs.grid import Run, fill
from glora_lib.runs.profiles import SMOKE
from glora_lib.runs.record import Record

distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")


@pytest.fixture(scope="module")
def cluster():
    """Two processes with one thread each, which are started again when they die."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


@pytest.mark.slow
def test_a_killed_worker_loses_no_record_and_none_is_written_twice(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    runs = [Run("dask", "gratings", "lora", replace(SMOKE, epochs=12), seed) for seed in range(6)]
    saved, killed, asked = Counter(), [], []
    save, parts = Record.save, grid.parts

    def save_and_count(found: Record, root=None):
        saved[found.id] += 1
        return save(found, root)

    def kill() -> None:
        with distributed.Client(cluster.scheduler_address) as client:
            busy = [client.submit(os.getpid, pure=False, workers=[address]) for address in client.scheduler_info()["workers"]]
            killed.append(busy[0].result())
        os.kill(killed[0], signal.SIGKILL)

    def save_then_kill(found: Record, root=None):
        path = save_and_count(found, root)
        if sum(saved.values()) == 1:  # the others are on their way
            killer = threading.Thread(target=kill)
            killer.start()
            killer.join()
        return path

    monkeypatch.setattr(Record, "save", save_then_kill)
    monkeypatch.setattr(grid, "parts", lambda *given, **named: asked.append((given[1], named)) or parts(*given, **named))
    assert fill(runs, scheduler=cluster.scheduler_address) == []
    assert killed
    assert asked == [(2, {"together": False})]  # two workers without a GPU: a run at a time, so that both have work
    assert saved == {run.id: 1 for run in runs}
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(run.path.name for run in runs)
    assert all(Record.load(run.path).seed == run.seed for run in runs)


def test_workers_of_several_threads_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, host="127.0.0.1", dashboard_address=":0", silence_logs=50
    )
    refused = pytest.raises(ValueError, match="have several threads.*: 2}; start them with one each: dask worker ADDRESS")
    with cluster, refused:
        fill([Run("dask", "gratings", "linear", SMOKE)], scheduler=cluster.scheduler_address)
    assert not list(tmp_path.iterdir())


def test_an_address_where_nobody_answers_is_an_error_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(grid, "ANSWER", 1)
    with pytest.raises(OSError, match="127.0.0.1:1"):
        fill([Run("dask", "gratings", "linear", SMOKE)], scheduler="tcp://127.0.0.1:1")
