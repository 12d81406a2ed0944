"""Numbers that are there in seconds, and that the fine-tuned model must beat: raw pixels, and a linear probe."""

import copy
import warnings
from dataclasses import replace

import torch
from torch import nn

from glora_lib.data.task import Images, Task
from glora_lib.methods import METHODS
from glora_lib.methods.probes import features
from glora_lib.runs.profile import Profile
from glora_lib.runs.profiles import PROFILES
from glora_lib.training.accuracy import accuracy
from glora_lib.training.head import head_of
from glora_lib.training.loop import train

MOST = 1000  # pictures a split that raw pixels are tried on


def early_numbers(model: nn.Module, task: Task, recipe: Profile, seed: int) -> dict[str, float]:
    """Return accuracies on val, fractions: chance, raw pixels by logistic regression, and a linear probe on the backbone.

    The test split is not looked at. What does not work on these pictures is left out.
    """
    from sklearn.exceptions import ConvergenceWarning  # scikit-learn is slow to import

    from glora_lib.data.baselines import raw_pixels

    small = {part: _first(getattr(task, part), seed) for part in ("train", "val")}
    numbers = {"chance": int(task.val.labels.bincount().max()) / len(task.val)}
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # pictures of one colour have no directions
            numbers["raw pixels"] = raw_pixels(replace(task, **small, test=small["val"]))["logistic regression"]
    except (ConvergenceWarning, ValueError):
        pass
    if len(head_of(model)) == 1 and hasattr(model, "forward_head"):
        probe = METHODS["linear"](copy.deepcopy(model))
        settings = PROFILES["cpu"].for_method("linear")
        train(probe.get_classifier(), features(probe, task.train), settings, seed=seed)
        numbers["linear probe"] = accuracy(probe, task.val, dtype=recipe.dtype)
    return numbers


def _first(images: Images, seed: int) -> Images:
    if len(images) <= MOST:
        return Images(images.raw[:], images.labels)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:MOST].tolist()
    return Images(images.raw[chosen], images.labels[chosen])
