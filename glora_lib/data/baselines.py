"""What raw pixels give: the accuracy that features must beat before they are worth anything."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from threadpoolctl import threadpool_limits

from glora_lib.data.task import Images, Task

NEIGHBOURS, STRENGTHS = (1, 5, 15), (0.001, 0.01, 0.1)  # tried on val: k, and the inverse regularisation C


@threadpool_limits.wrap(limits=1)  # products this small are slower on two threads, which wait for each other
def raw_pixels(task: Task) -> dict[str, float]:
    """Return test accuracies, fractions, of scikit-learn's classifiers on pixels in 0..1, fitted on train.

    Keys: "chance" (the share of the test split's largest class), "nearest centroid", "nearest neighbours" and "logistic
    regression"; for the last two the setting that is best on val is used.
    """
    train, val, test = (vectors(images) for images in (task.train, task.val, task.test))
    neighbours = [KNeighborsClassifier(k).fit(*train) for k in NEIGHBOURS]
    regressions = [LogisticRegression(C=strength, max_iter=200).fit(*train) for strength in STRENGTHS]
    return {
        "chance": float(np.bincount(test[1]).max() / len(test[1])),
        "nearest centroid": float(NearestCentroid().fit(*train).score(*test)),
        "nearest neighbours": float(max(neighbours, key=lambda model: model.score(*val)).score(*test)),
        "logistic regression": float(max(regressions, key=lambda model: model.score(*val)).score(*test)),
    }


def vectors(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels as vectors, float (N, 3 size size) in 0..1, and the labels."""
    return images.raw[:].flatten(1).numpy() / 255.0, images.labels.numpy()
