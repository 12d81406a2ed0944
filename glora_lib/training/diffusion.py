"""Diffusion with classes: the loss that a noise predictor is trained by, and sampling with classifier-free guidance.

The schedules are diffusers' (DDPM with linear betas over 1,000 times; DDIM to sample). Knows nothing of this project: a model
takes noisy pictures, times and labels and returns the noise; one label stands for no class.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

TIMES = 1000
DROPPED = 0.1  # of the labels while training, so that the model also knows pictures of no class


@cache
def schedule(kind: str):
    """Return diffusers' schedule of the training ("ddpm") or of the sampling ("ddim")."""
    from diffusers import DDIMScheduler, DDPMScheduler

    return {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[kind](num_train_timesteps=TIMES)


def noise_loss(
    model: Callable, pictures: Float[Tensor, "b 3 h w"], labels: Int64[Tensor, " b"], none: int, generator: torch.Generator
) -> Tensor:
    """Return the mean squared error of the predicted noise, at random times, a tenth of the labels replaced by `none`.

    `pictures` lie between -1 and 1. All that is random comes from the generator.
    """
    noise = torch.randn(pictures.shape, generator=generator)
    times = torch.randint(0, TIMES, (len(pictures),), generator=generator)
    dropped = torch.rand(len(labels), generator=generator) < DROPPED
    noisy = schedule("ddpm").add_noise(pictures, noise, times)
    return F.mse_loss(model(noisy, times, torch.where(dropped, none, labels)), noise)


@torch.no_grad()
def sample(
    model: Callable, labels: Int64[Tensor, " n"], shape: tuple[int, int, int], none: int, *, steps: int = 20,
    guidance: float = 1.0, seed: int = 0, batch_size: int = 100,
) -> Float[Tensor, "n channels height width"]:  # fmt: skip
    """Return a picture a label, between -1 and 1: DDIM without noise, from a start that the seed fixes.

    The prediction is that without a class, plus (1 + `guidance`) times the difference that the class makes.
    """
    ddim = schedule("ddim")
    ddim.set_timesteps(steps)
    pictures = torch.randn((len(labels), *shape), generator=torch.Generator().manual_seed(seed))
    found = []
    for x, y in zip(pictures.split(batch_size), labels.split(batch_size), strict=True):
        both = torch.cat([y, torch.full_like(y, none)])
        for time in ddim.timesteps:
            with_class, without = model(torch.cat([x, x]), time.expand(len(both)), both).chunk(2)
            x = ddim.step(without + (1 + guidance) * (with_class - without), time, x).prev_sample
        found.append(x.clamp(-1, 1))
    return torch.cat(found)
