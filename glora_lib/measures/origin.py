"""Where the images of a task come from: which tasks share a source of images, and which need nothing but pip."""

import re

from glora_lib.data import BUILT_IN
from glora_lib.data.debian import PLACES

# Tasks that show the same digits, cut the same picture, come from one collection or from one generator. They are no independent
# evidence about a method. A task that is not named here is a source of its own.
SOURCES = {
    "mnist_5k": "MNIST",
    "mnist_m": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "indian_pines_9": "Indian Pines",
    "tuxpaint_9": "Tuxpaint",
    "cifar": "CIFAR",
    "cifar10": "CIFAR",
    "landcover_10": "Blue Marble",
    "koeppen_5": "Blue Marble",
    "clevr_count": "CLEVR",
    "clevr_dist": "CLEVR",
    "dsprites_loc": "dSprites",
    "dsprites_ori": "dSprites",
    "smallnorb_azi": "SmallNORB",
    "smallnorb_ele": "SmallNORB",
    "tiny_imagenet_food": "Tiny-ImageNet",
    "tiny_imagenet_vehicles": "Tiny-ImageNet",
    "tiny_imagenet_pets": "Tiny-ImageNet",
}


def trained_on(task: str) -> str:
    """Return the set that a name begins with: "mnist_5k" of "mnist_5k-4shot-s0", "mnist_5k 4" and "mnist_5k on optdigits"."""
    return re.split(r" |-\d+shot", task)[0]


def source(task: str) -> str:
    """Return the source of the images that a task trains on; few-shot draws and shifted targets have that of their set."""
    return SOURCES.get(trained_on(task), trained_on(task))


def by_pip_alone(task: str) -> bool:
    """Whether a task's images, those of its target too, are generated or come with the pinned packages.

    The others need a Debian package or a folder of yours; data/README.md says which.
    """
    target = task.split(" on ")[1] if " on " in task else ""
    return trained_on(task) in BUILT_IN and not {trained_on(task), target} & set(PLACES)
