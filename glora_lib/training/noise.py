"""Dropout and stochastic depth whose random numbers come from outside: each of several runs keeps a generator of its own.

For a processor. A GPU's generator serves all runs at once, and there these modules stay what they are.
"""

import torch
from torch import Tensor, nn

from glora_lib.training.dropout import Dropout


class Noise(nn.Module):
    """Takes the place of dropout or drop path: what comes in is multiplied by `mask`, 0 or 1 / keep, while training.

    The first batch passes without a mask, and shows what a mask for one image looks like.
    """

    def __init__(self, replaced: nn.Module):
        super().__init__()
        self.source = replaced
        self.whole = not isinstance(replaced, nn.Dropout)  # one number an image, as in stochastic depth
        self.like: Tensor | None = None
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.mask is None:
            self.like = x.new_empty([1] * (x.dim() - 1) if self.whole else x.shape[1:])
            return x
        return x * self.mask

    def dropped(self, x: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """Return what `training.dropout.Dropout` does, for `x` in one piece or run by run."""
        if not self.training or self.mask is None:
            return x, None, 1.0
        mask = self.mask.to(x.dtype).view(x.shape)
        return x * mask, mask, 1.0

    def draw(self, images: int, generator: torch.Generator) -> Tensor:
        """Return a mask for so many images, drawn as the module that was replaced draws its own on a processor."""
        mask = self.like.new_empty(images, *self.like.shape)
        if isinstance(self.source, Dropout):
            return self.source.mask(mask, generator)
        keep = 1 - rate(self.source)
        return mask.bernoulli_(keep, generator=generator).div_(keep)


def rate(module: nn.Module) -> float:
    """Return the share that a dropout or a drop path drops; 0 for other modules."""
    return module.p if isinstance(module, nn.Dropout) else getattr(module, "drop_prob", None) or 0.0


def replace_noise(model: nn.Module) -> list[Noise]:
    """Put `Noise` in place of each dropout and drop path that is in use; return them as the model has them."""
    replaced = []
    for name, module in list(model.named_modules()):
        if name and rate(module) and not list(module.children()):
            noise = Noise(module).train(module.training)
            model.set_submodule(name, noise)
            replaced.append(noise)
    return replaced
