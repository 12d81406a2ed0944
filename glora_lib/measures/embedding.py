"""Features of test images, their t-SNE, and numbers that say how well classes lie apart; a picture alone proves nothing."""

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import Dataset

from glora_lib.methods.probes import features

NEIGHBOURS = 5


def of(model: nn.Module, data: Dataset, n: int | None = None) -> tuple[Float[np.ndarray, "n width"], Int[np.ndarray, " n"]]:
    """Return what the head of a timm model sees for the first `n` images, of length 1 each, and their labels."""
    rows, labels = features(model, torch.utils.data.Subset(data, range(n)) if n else data).tensors
    return torch.nn.functional.normalize(rows, dim=-1).numpy(), labels.numpy()


@threadpool_limits.wrap(limits=1)  # on a busy machine two threads wait for each other, many times as long as they compute
def tsne(rows: Float[np.ndarray, "n width"], perplexity: int | float, seed: int) -> Float[np.ndarray, "n 2"]:
    """Return scikit-learn's t-SNE of the rows, started from their principal components."""
    return TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(rows)


def separation(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Return two numbers on features, no picture involved.

    knn: accuracy of the 5 nearest training images' vote on test images. silhouette: of the test images by their true class,
    from -1 (mixed) over 0 to 1 (apart).
    """
    vote = KNeighborsClassifier(NEIGHBOURS).fit(*train)
    return {"knn": float(vote.score(*test)), "silhouette": float(silhouette_score(*test))}


def picture_separation(picture: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the share of points whose 5 nearest neighbours in the picture vote for their class, themselves left out."""
    _, places = KNeighborsClassifier(NEIGHBOURS).fit(picture, labels).kneighbors()
    votes = np.apply_along_axis(lambda row: np.bincount(row).argmax(), 1, labels[places])
    return float((votes == labels).mean())
