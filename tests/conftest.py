"""Before the library is imported: its annotated shapes are checked while tests run, and only then."""

from jaxtyping import install_import_hook

install_import_hook("glora_lib", "beartype.beartype")

import os
import random

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def threads():
    """As many threads as OMP_NUM_THREADS says, else two: the machine that the recorded numbers come from has two cores."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same state of the global generators, alone or in company."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - third parties use the global generator
    torch.manual_seed(0)


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
)
def place(request):
    """The processor, and a GPU where there is one: what is computed there is the same."""
    return torch.device(request.param)


@pytest.fixture
def one_thread():
    """Models this small gain nothing from a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
