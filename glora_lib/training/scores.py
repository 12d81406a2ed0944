"""How good generated digits are: scores by a classifier's answers, and a Fréchet distance between features.

Neither is what its name says in other papers. "Inception score" has no Inception network here but a small classifier of digits;
SuperLoRA's own, by an l1 distance, is in an appendix that is not at hand, so that its form here is our reading. "Fréchet
distance" is between normal distributions fitted to a ViT's features; with some hundred pictures it is biased upwards, alike for
all models.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from glora_lib.training.batch import TrainingError


@torch.no_grad()
def scores(classifier: Callable, pictures: Tensor, labels: Int64[Tensor, " n"]) -> dict[str, float]:
    """Return what a classifier says of pictures of these classes.

    inception_score: exp of the mean Kullback-Leibler divergence of p(y | x) from the mean p(y), 1 to 10 for ten classes.
    l1_score: the mean l1 distance between the same two, at most 1.8 for ten. as_asked: the share that it takes for the class
    that was asked for.

    Raises TrainingError for answers that are not finite.
    """
    p = torch.cat([classifier(part).double().softmax(-1) for part in pictures.split(250)])
    if not p.isfinite().all():
        raise TrainingError("the classifier's answers are not finite; look for NaN or infinity in the pictures")
    mean = p.mean(0, keepdim=True)
    divergence = (p * (p.clamp_min(1e-12).log() - mean.clamp_min(1e-12).log())).sum(1).mean()
    return {
        "inception_score": float(divergence.exp()),
        "l1_score": float((p - mean).abs().sum(1).mean()),
        "as_asked": float((p.argmax(1) == labels).double().mean()),
    }


def frechet(features: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> float:
    """Return the Fréchet distance between normal distributions fitted to two sets of features.

    |mean - mean|^2 + trace(S + T - 2 sqrt(S T)), with a millionth on the diagonals of S and T so that the root exists.
    """
    a, b = (part.double().cpu().numpy() for part in (features, others))
    S, T = (np.cov(part, rowvar=False) + 1e-6 * np.eye(part.shape[1]) for part in (a, b))
    root = scipy.linalg.sqrtm(S @ T).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(S + T - 2 * root))
