"""Few-shot tasks: K training images a class, drawn from another task or read from lists in the layout of CoOp and NOAH.

    <set>/annotations/train_meta.list.num_shot_4.seed_0   K = 1, 2, 4, 8 or 16; seed 0, 1 or 2
    <set>/annotations/val_meta.list   test_meta.list
    <set>/images/...

A line is `NAME LABEL`, split at the last blank, because names may have blanks. NAME is relative to `images/`, to the set's
own folder (stanford_cars) or to `train/` and `val/` (imagenet).
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from glora_lib.data.folder import MEMORY, from_rows, lines, numbered, read_list
from glora_lib.data.task import DataError, Images, Task

# The five sets of the paper's Fig. 2 and ImageNet, by folder; annotations of NOAH's archive write some names otherwise.
CLASSES = {
    **{"food-101": 101, "stanford_cars": 196, "oxford_flowers": 102, "fgvc_aircraft": 100, "oxford_pets": 37},
    "imagenet": 1000,
}
FOLDERS = ("images", ".", "train", "val")
NAME = re.compile(r"(?P<task>.+)-(?P<shots>[1-9][0-9]*)shot-s(?P<seed>[0-9]+)")


@dataclass(frozen=True)
class FewShotName:
    """What a name such as `mnist_5k-4shot-s0` says: the task that it is drawn from, images a class, seed of the draw."""

    task: str
    shots: int
    seed: int


def parse(name: str) -> FewShotName | None:
    """Return what a few-shot name says, None for the name of a whole task; `DataError` for a malformed one."""
    found = NAME.fullmatch(name)
    if found:
        return FewShotName(found["task"], int(found["shots"]), int(found["seed"]))
    if re.search(r"-[0-9]*shots?(-|$)", name):  # screenshots are none
        raise DataError(f"malformed few-shot name {name!r}: write TASK-Kshot-sSEED, such as mnist_5k-4shot-s0, with K >= 1")
    return None


def subset(task: Task, shots: int, seed: int) -> Task:
    """Return the task with `shots` training images a class; val and test stay whole.

    With the same seed a smaller number of shots is a part of a larger one. Raises `DataError` for a class with fewer.
    """
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label, name in enumerate(task.class_names):
        members = torch.nonzero(task.train.labels == label)[:, 0]
        if len(members) < shots:
            raise DataError(f"{task.name} has {len(members)} training images of {name!r}, not the {shots} asked for")
        chosen += members[torch.randperm(len(members), generator=generator)[:shots]].tolist()
    train = Images(task.train.raw[chosen], task.train.labels[chosen])
    digest = hashlib.sha256(f"{task.sha256} {chosen}".encode()).hexdigest()
    return replace(task, name=f"{task.name}-{shots}shot-s{seed}", train=train, sha256=digest)


def load_lists(
    root: Path, shots: int, seed: int, size: int, *, classes: int | None = None, wnids: tuple[str, ...] = (),
    name: str = "", stands_for: str = "", memory: int = MEMORY, change_test: Callable = lambda image: image,
) -> Task:  # fmt: skip
    """Return the few-shot task of the lists in `root`/annotations.

    Args:
        classes: how many there are; None for as many as `classes.txt` has, one a line, or the largest label plus one.
        wnids: keep only these classes, named by the first word of their line of `classes.txt`, and number them anew.
        name: of the task, without shots and seed; the folder's name if empty.
        change_test: applied to each test image.

    Raises `DataError` for anything missing, malformed or unreadable.
    """
    annotations = root / "annotations"
    if not annotations.is_dir():
        raise DataError(f"there is no folder {annotations}; put {root.name!r} there or set GLORA_DATA_DIR (see data/README.md)")
    train = f"train_meta.list.num_shot_{shots}.seed_{seed}"
    if not (annotations / train).is_file():
        there = sorted(path.name.removeprefix("train_meta.list.") for path in annotations.glob("train_meta.list.*"))
        raise DataError(f"{annotations / train} is missing; lists that are there: {', '.join(there) or 'none'}")
    seen, titles = {}, class_lines(root)
    known = classes or len(titles) or None
    if titles and len(titles) != known:
        raise DataError(f"{root / 'classes.txt'} names {len(titles)} classes, and {root.name} has {known}; mend or delete it")
    files = {"train": train, "val": "val_meta.list", "test": "test_meta.list"}
    lists = {split: read_list(root, f"annotations/{file}", known, seen, FOLDERS) for split, file in files.items()}
    known = known or len(numbered(lists, root))
    titles = titles or [(str(label), str(label)) for label in range(known)]
    if wnids:
        codes = [code for code, _ in titles]
        if unknown := sorted(set(wnids) - set(codes)):
            raise DataError(f"{root / 'classes.txt'} lacks the classes {', '.join(unknown)}")
        place = {codes.index(wnid): label for label, wnid in enumerate(wnids)}
        lists = {split: [(p, place[y], w) for p, y, w in rows if y in place] for split, rows in lists.items()}
        titles = [titles[label] for label in place]
    if thin := [title for label, (_, title) in enumerate(titles) if shots != sum(y == label for _, y, _ in lists["train"])]:
        missed = ", ".join(thin[:5])
        raise DataError(f"{annotations / train} should list {shots} images of each class; it does not for {missed}")
    title = f"{name or root.name}-{shots}shot-s{seed}"
    names = tuple(title for _, title in titles)
    return from_rows(title, "natural", stands_for, names, lists, size, memory, change_test)


def class_lines(root: Path) -> list[tuple[str, str]]:
    """Return (code, name) for each line of `classes.txt`, "n02085620<tab>Chihuahua" or a name alone; [] without a file."""
    if not (root / "classes.txt").is_file():
        return []
    parts = [line.strip().partition("\t") for line in lines(root / "classes.txt") if line.strip()]
    return [(code, (name or code).split(",")[0]) for code, _, name in parts]
