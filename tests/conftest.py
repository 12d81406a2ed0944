"""Before the library is imported: its annotated shapes are checked while tests run, and only then."""

import gc
import inspect
from typing import get_args

import jaxtyping

with_shapes = jaxtyping.jaxtyped


def checked(function=None, *, typechecker):
    """Do as `jaxtyping.jaxtyped`, which the hook below puts on all that the library defines, but without keeping axes for what
    names none: its arguments and results are checked by the same type checker, which costs a tenth.
    """
    if function is None:
        return lambda function: checked(function, typechecker=typechecker)
    if inspect.isfunction(function) and not any(map(_names_axes, function.__annotations__.values())):
        return typechecker(function)
    return with_shapes(function, typechecker=typechecker)


def _names_axes(annotation) -> bool:
    """Whether an annotation has a shape in it; of a text it is not known."""
    if isinstance(annotation, str):
        return True
    shape = inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray)
    return shape or any(map(_names_axes, get_args(annotation)))


jaxtyping.jaxtyped = checked
jaxtyping.install_import_hook("glora_lib", "beartype.beartype")

import os
import random

import numpy as np
import pytest
import torch


def pytest_collection_modifyitems(items):
    """Files with slow tests begin first, so that no process is left with one when the others have ended."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What was imported stays: the library collects garbage after every run, and need not look through modules each time."""
    gc.collect()
    gc.freeze()


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
