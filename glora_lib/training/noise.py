"""Dropout and stochastic depth whose random numbers come from outside: each of several runs keeps a generator of its own."""

import torch
from torch import Tensor, nn


class Noise(nn.Module):
    """Takes the place of dropout or drop path: what comes in is multiplied by `mask`, 0 or 1 / keep, while training.

    The first batch passes without a mask, and shows what a mask for one image looks like.
    """

    def __init__(self, keep: float, whole: bool):
        super().__init__()
        self.keep, self.whole = keep, whole  # whole: one number an image, as in stochastic depth
        self.like: Tensor | None = None
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.mask is None:
            self.like = x.new_empty([1] * (x.dim() - 1) if self.whole else x.shape[1:])
            return x
        return x * self.mask

    def draw(self, images: int, generator: torch.Generator | None) -> Tensor:
        """Return a mask for so many images, drawn as torch's dropout and timm's drop path draw theirs on a processor."""
        mask = self.like.new_empty(images, *self.like.shape)
        return mask.bernoulli_(self.keep, generator=generator).div_(self.keep)


def replace_noise(model: nn.Module) -> list[Noise]:
    """Put `Noise` in place of each dropout and drop path that is in use; return them as the model has them."""
    replaced = []
    for name, module in list(model.named_modules()):
        rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "drop_prob", None) or 0.0
        if name and rate and not list(module.children()):
            noise = Noise(1 - rate, whole=not isinstance(module, nn.Dropout)).train(module.training)
            model.set_submodule(name, noise)
            replaced.append(noise)
    return replaced
