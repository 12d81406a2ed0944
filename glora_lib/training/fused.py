"""Functions of tensors that a GPU computes in one walk over memory, by torch.compile. A processor runs them as they stand.

A ViT of 50 tokens spends most of a step on a GPU in reading and writing what its products have computed; every function that is
fused saves some of these walks. `TORCH_COMPILE_DISABLE=1` in the environment, torch's own switch, runs them unfused there, too;
so does float64, which is there for exactness.
"""

from collections.abc import Callable
from functools import cache, wraps

import torch
from torch import Tensor

VARIANTS = 64  # number formats, widths, with and without gradients: torch's own limit of 8 would end in unfused calls


def fused(function: Callable) -> Callable:
    """Return the function, which is compiled where its first argument, a tensor, is on a GPU and no float64.

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
        if arguments[0].device.type != "cuda" or arguments[0].dtype == torch.float64:
            return function(*arguments)
        whole = compiled()
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.dim() > 1:
                torch._dynamo.maybe_mark_dynamic(argument, (0, 1))
        return whole(*arguments)

    return call
