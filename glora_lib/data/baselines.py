"""What raw pixels give: the accuracy that features must beat before they are worth anything."""

import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from threadpoolctl import threadpool_limits

from glora_lib.data.task import Images, Task

NEIGHBOURS, STRENGTHS = (1, 5, 15), (0.001, 0.01, 0.1)  # tried on val: k, and the inverse regularisation C
STEPS = 200  # of Newton's method at the most; about a dozen suffice


@threadpool_limits.wrap(limits=1)  # products this small are slower on two threads, which wait for each other
def raw_pixels(task: Task) -> dict[str, float]:
    """Return test accuracies, fractions, of scikit-learn's classifiers on pixels in 0..1, fitted on train.

    Keys: "chance" (the share of the test split's largest class), "nearest centroid", "nearest neighbours" and "logistic
    regression"; for the last two the setting that is best on val is used. A regression that does not converge raises a
    ConvergenceWarning: its accuracy would depend on the machine's rounding.
    """
    train, val, test = (vectors(images) for images in (task.train, task.val, task.test))
    neighbours = [KNeighborsClassifier(k).fit(*train) for k in NEIGHBOURS if k <= len(train[1])]
    # all components: a rotation, after which the regression is the same and has no more dimensions than images
    rotation = PCA(svd_solver="full").fit(train[0])
    rotated, rotated_val, rotated_test = ((rotation.transform(pixels), labels) for pixels, labels in (train, val, test))
    moving = np.ptp(train[0], axis=0) > 0  # a pixel that never changes says nothing, and scikit-learn warns of it
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        solver = {"solver": "newton-cg", "max_iter": STEPS}  # lbfgs needs a thousand and more on some tasks
        regressions = [LogisticRegression(C=strength, **solver).fit(*rotated) for strength in STRENGTHS]
    return {
        "chance": float(np.bincount(test[1]).max() / len(test[1])),
        "nearest centroid": float(NearestCentroid().fit(train[0][:, moving], train[1]).score(test[0][:, moving], test[1])),
        "nearest neighbours": float(max(neighbours, key=lambda model: model.score(*val)).score(*test)),
        "logistic regression": float(max(regressions, key=lambda model: model.score(*rotated_val)).score(*rotated_test)),
    }


def vectors(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels as vectors, float (N, 3 size size) in 0..1, and the labels."""
    return images.raw[:].flatten(1).numpy() / 255.0, images.labels.numpy()
