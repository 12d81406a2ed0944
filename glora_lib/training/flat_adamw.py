"""AdamW on all trained numbers of many runs at once, (runs, numbers), with a step count and a rate for every tensor of a run.

The same as torch's AdamW tensor by tensor: a tensor without a gradient is left alone, or, once it had one, moved by its
momentum (`update_unsampled`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glora_lib.training.fused import fused

BETAS, EPSILON = (0.9, 0.999), 1e-8  # as torch has them


class FlatAdamW:
    """Moves `tensors` (runs, numbers), each row a run's trained tensors of `sizes` numbers one after another."""

    def __init__(self, tensors: nn.Parameter, sizes: Sequence[int], weight_decay: float, update_unsampled: bool):
        self.tensors, self.weight_decay, self.update_unsampled = tensors, weight_decay, update_unsampled
        self.mean, self.square = torch.zeros_like(tensors), torch.zeros_like(tensors)
        runs, device = len(tensors), tensors.device
        self.steps = torch.zeros(runs, len(sizes), dtype=torch.float64, device=device)  # of each tensor
        self.place = torch.repeat_interleave(
            torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device), output_size=tensors.shape[1]
        )

    @torch.no_grad()
    def step(self, gradient: Tensor, rates: Tensor, sampled: Tensor | None = None) -> None:
        """Move the tensors once.

        Args:
            gradient: (runs, numbers); zero where a tensor has none.
            rates: (runs, tensors) float64.
            sampled: bool (runs, tensors), which tensors have a gradient; None says all.
        """
        moved = torch.ones_like(self.steps, dtype=torch.bool) if sampled is None else sampled
        if self.update_unsampled:
            moved = moved | (self.steps > 0)
        self.steps += moved
        steps = self.steps.clamp(min=1)
        first, second = (1 - beta**steps for beta in BETAS)
        scales = (part.to(gradient.dtype) for part in (second.sqrt(), rates / first, 1 - rates * self.weight_decay))
        _move(self.tensors.detach(), self.mean, self.square, gradient, moved, *scales, self.place)

    def state(self) -> dict[str, Tensor]:
        """Return what the next step depends on."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


@fused
def _move(
    tensors: Tensor, mean: Tensor, square: Tensor, gradient: Tensor, moved: Tensor, root: Tensor, rate: Tensor, kept: Tensor,
    place: Tensor,
) -> None:  # fmt: skip
    """Change the first three, (runs, numbers), in place; `place` says which of the (runs, tensors) values a number has."""
    here = moved[:, place]
    mean.copy_(torch.where(here, torch.lerp(mean, gradient, 1 - BETAS[0]), mean))
    square.copy_(torch.where(here, square * BETAS[1] + gradient * gradient * (1 - BETAS[1]), square))
    change = rate[:, place] * (mean / (square.sqrt() / root[:, place] + EPSILON))
    tensors.copy_(torch.where(here, tensors * kept[:, place] - change, tensors))
