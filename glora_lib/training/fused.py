"""Functions of tensors that a GPU computes in one walk over memory, by torch.compile. A processor runs them as they stand.

A ViT of 50 tokens spends most of a step on a GPU in reading and writing what its products have computed; every function that is
fused saves some of these walks. `TORCH_COMPILE_DISABLE=1` in the environment, torch's own switch, runs them unfused there, too;
so does float64, which is there for exactness, and so does everything after a warning where there is no compiler: torch.compile
needs Triton and a C compiler, which some machines with a GPU lack.
"""

import warnings
from collections.abc import Callable
from functools import cache, wraps

import torch
from torch import Tensor

VARIANTS = 64  # number formats, widths, with and without gradients: torch's own limit of 8 would end in unfused calls
_failed = False  # whether something could not be compiled in this process


def fused(function: Callable) -> Callable:
    """Return the function, which is compiled where its first argument, a tensor, is on a GPU and no float64 (`suits`).

    The first two axes of arguments with more than one may be of any length, and so may any other once torch has seen a second
    length there; number formats and missing arguments are compiled anew.
    """

    @cache
    def compiled() -> Callable:
        import torch._dynamo  # takes seconds, which a processor need not spend

        torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
        return torch.compile(function)

    @wraps(function)
    def call(*arguments):
        global _failed
        if _failed or not suits(arguments[0]):
            return function(*arguments)
        whole = compiled()
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.dim() > 1:
                torch._dynamo.maybe_mark_dynamic(argument, (0, 1))
        try:
            return whole(*arguments)
        except torch._dynamo.exc.ShortenTraceback as error:  # also where Triton is missing; before anything was computed
            _failed = True
            why = " ".join(str(error).split())[:200]
            warnings.warn(
                f"torch.compile does not work here ({why}); training goes on without fused kernels, which takes longer. "
                "Install what is missing (Triton, a C compiler), or set TORCH_COMPILE_DISABLE=1 to be without this warning",
                stacklevel=2,
            )
            return function(*arguments)

    return call


def suits(x: Tensor) -> bool:
    """Return whether what is computed from this tensor is compiled."""
    return x.device.type == "cuda" and x.dtype != torch.float64
