"""The share of the processor that each of several processes gets."""

import pytest

from glora_lib.training import threads


@pytest.mark.parametrize(("cores", "workers", "share"), [(2, 1, 2), (2, 2, 1), (2, 3, 1), (8, 3, 2), (1, 1, 1)])
def test_workers_share_the_cores_out_and_none_goes_without(monkeypatch, cores, workers, share):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert threads.share(workers) == share


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(threads.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 6)
    assert threads.share(2) == 3
    with pytest.raises(ValueError, match="not 0"):
        threads.share(0)
