"""Devices: what is asked for is taken or refused before anything is computed, and what a record says of it."""

from types import SimpleNamespace

import pytest
import torch

from glora_lib.training import device as devices
from glora_lib.training.device import DeviceError, describe, device, products

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def gpus(monkeypatch):
    """Say that a number of GPUs is here."""

    def here(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return here


def test_auto_takes_a_gpu_where_there_is_one(gpus, monkeypatch):
    monkeypatch.delenv("DEVICE", raising=False)
    gpus(0)
    assert device() == torch.device("cpu")
    gpus(1)
    assert device() == torch.device("cuda", 0)
    monkeypatch.setenv("DEVICE", "cpu")
    assert device() == torch.device("cpu")
    assert device("AUTO") == torch.device("cuda", 0)  # what is passed counts more


@pytest.mark.parametrize(("wanted", "here"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_here_is_refused_with_what_is(gpus, wanted, here):
    gpus(here)
    with pytest.raises(DeviceError, match=rf"DEVICE={wanted} asks for a GPU.* sees {here} here; .*DEVICE=cpu or DEVICE=auto"):
        device(wanted)


@pytest.mark.parametrize("wanted", ["gpu", "tpu", "cuda:x", "cpu:1", "auto:0"])
def test_an_unknown_name_is_refused_with_the_known(wanted):
    with pytest.raises(DeviceError, match=f"DEVICE={wanted!r} is not known; valid: auto, cpu, cuda"):
        device(wanted)


@pytest.fixture
def worker(monkeypatch, tmp_path):
    """Become a process that was started to compute beside others, the n-th one; what it locks is given up at the end."""
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_locks", [])

    def become(number: int) -> None:
        process = SimpleNamespace(_identity=(number,))
        monkeypatch.setattr(devices.multiprocessing, "current_process", lambda: process)

    yield become
    for lock in devices._locks:
        lock.close()
    devices._turn.cache_clear()


def test_processes_that_compute_at_once_take_the_gpus_in_turn(gpus, worker):
    gpus(2)
    for number, expected in ((1, 0), (2, 1), (3, 0), (4, 1), (2, 1)):
        worker(number)
        assert device("cuda") == torch.device("cuda", expected)
    assert device("cuda:1") == torch.device("cuda", 1)  # a number that is asked for is taken


@pytest.mark.skipif(devices.fcntl is None, reason="this system has no such locks")
def test_a_process_that_stands_in_for_one_that_ended_takes_its_gpu(gpus, worker):
    """Its number alone, 3 of two, would put it beside the second one."""
    gpus(2)
    for number in (1, 2):
        worker(number)
        device("cuda")
    devices._locks.pop(1).close()  # as when the second one ends
    worker(3)
    assert device("cuda") == torch.device("cuda", 1)


def test_a_process_of_its_own_takes_the_first_and_leaves_all_to_its_workers(gpus, worker):
    gpus(2)
    assert device("cuda") == torch.device("cuda", 0)
    worker(1)
    assert device("cuda") == torch.device("cuda", 0)


def test_a_gpu_that_nothing_has_used_yet_has_no_peak_to_forget(monkeypatch):
    """torch refuses to reset a counter that it has not made, and to be asked for a device makes none."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda place: pytest.fail("Invalid device argument"))
    devices.forget_peak(torch.device("cuda", 0))


def test_a_record_of_the_processor_names_it_alone():
    assert describe(torch.device("cpu")) == {"device": "cpu"}


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "ieee"), ("tf32", "tf32"), ("bfloat16", "ieee")])
def test_shortened_factors_are_a_choice_and_what_was_set_before_comes_back(dtype, precision):
    before = torch.backends.cuda.matmul.fp32_precision
    with products(dtype):
        assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == precision
    assert torch.backends.cuda.matmul.fp32_precision == before


@gpu
def test_a_record_of_a_gpu_names_card_driver_and_cuda():
    said = describe(device("cuda"))
    assert said["device_name"] == torch.cuda.get_device_name()
    assert said["driver"][0].isdigit()
    assert said["cuda"] == torch.version.cuda
