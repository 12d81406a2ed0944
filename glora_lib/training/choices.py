"""What training many runs as one program asks of supernets: their configurations as numbers, and layers that follow masks."""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from glora_lib.training.stacked import Form


@runtime_checkable
class Choices(Protocol):
    """What a program asks of a supernet, whose configurations are masks for it; `glora.masked.Masks` is one."""

    def sample(self, draw: random.Random) -> list[int]:
        """Draw a configuration, a number a layer."""

    def set(self, codes: Tensor) -> None:
        """Set the masks of all layers from the numbers (runs, layers)."""

    def form(self, module: nn.Module, name: str) -> Form | None:
        """Return the form of a layer that has the weights of its mask within `formed`; None for other modules."""

    def formed(self, tensors: dict[str, Tensor]) -> AbstractContextManager:
        """Return the context of a forward pass, given all trained tensors by their names in the model, (runs, ...)."""

    def sampled(self, codes: Tensor, names: Sequence[str]) -> Tensor:
        """Return which trained tensors, by their names in the model, the configurations use: bool (runs, tensors)."""
