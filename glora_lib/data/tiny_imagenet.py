"""Tiny-ImageNet in the few-shot layout: all 200 classes, or one of five groups of classes that are hard to tell apart.

A group is what lies below one node of WordNet among the 200 classes, as far as it names a kind of thing: the groups take
the place of the paper's five fine-grained sets.
"""

from collections.abc import Callable
from pathlib import Path

from glora_lib.data.few_shot import FewShotName, class_lines, load_lists
from glora_lib.data.task import DataError, Task

GROUPS = {
    # food, nutrient: fruit, vegetables, dishes and one drink
    "food": (
        *("n07583066", "n07614500", "n07615774", "n07695742", "n07711569", "n07715103", "n07720875", "n07734744"),
        *("n07747607", "n07749582", "n07753592", "n07768694", "n07871810", "n07873807", "n07875152", "n07920052"),
    ),
    # vehicle, wheeled or on rails, and two boats
    "vehicles": (
        *("n02814533", "n02917067", "n03100240", "n03393912", "n03444034", "n03447447", "n03599486", "n03662601"),
        *("n03670208", "n03796401", "n03977966", "n04146614", "n04285008", "n04465501", "n04487081"),
    ),
    # domestic dog, domestic cat
    "pets": (
        *("n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"),
        *("n02123045", "n02123394", "n02124075"),
    ),
    # arthropod: a fossil, arachnids, a centipede, two lobsters and insects
    "arthropods": (
        *("n01768244", "n01770393", "n01774384", "n01774750", "n01784675", "n01983481", "n01984695", "n02165456"),
        *("n02190166", "n02206856", "n02226429", "n02231487", "n02233338", "n02236044", "n02268443", "n02279972"),
        "n02281406",
    ),
    # clothing
    "clothing": (
        *("n02669723", "n02730930", "n02837789", "n02883205", "n02963159", "n03026506", "n03404251", "n03617480"),
        *("n03763968", "n03770439", "n03980874", "n04133789", "n04254777", "n04259630", "n04371430", "n04532106"),
    ),
}
STANDS_FOR = {"food": "food-101", "vehicles": "stanford_cars", "pets": "oxford_pets"}
NAMES = ("tiny_imagenet", *(f"tiny_imagenet_{group}" for group in GROUPS))


def wnids_of(root: Path, name: str) -> tuple[str, ...]:
    """Return the WordNet codes of the classes of a name of `NAMES`, in the order of its labels."""
    return GROUPS.get(name.removeprefix("tiny_imagenet_"), ()) or tuple(code for code, _ in class_lines(root))


def load_tiny_imagenet(root: Path, wanted: FewShotName, size: int, change_test: Callable = lambda image: image) -> Task:
    """Return the few-shot task `wanted`, a name of `NAMES` with shots and seed, from the folder `root`."""
    if wanted.task not in NAMES:
        raise DataError(f"unknown task {wanted.task!r}; valid names: {', '.join(NAMES)}")
    group = wanted.task.removeprefix("tiny_imagenet").removeprefix("_")
    wnids, stands_for = GROUPS.get(group, ()), STANDS_FOR.get(group, "" if group else "imagenet")
    return load_lists(
        root, wanted.shots, wanted.seed, size, classes=200, wnids=wnids, name=wanted.task, stands_for=stands_for,
        change_test=change_test,
    )  # fmt: skip
