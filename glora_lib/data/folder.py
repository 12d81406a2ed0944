"""VTAB-1K folders: the layout that NOAH introduced and that FacT, RepAdapter and GLoRA read.

    <task>/train800.txt  val200.txt  test.txt  [train800val200.txt]  [classes.txt]
    <task>/images/test/000000.jpg ...

A list has one image a line, the path inside the task's folder and the label: `images/test/000000.jpg 3`. `classes.txt`
has one class name a line. `train800val200.txt` repeats the first two lists and is not read.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from glora_lib.data.task import DataError, Images, Task, resize

LISTS = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}
# The number of classes of each task that is known by name: VTAB's natural, specialized and structured ones.
NATURAL = {
    **{"cifar": 100, "caltech101": 102, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37, "svhn": 10},
    **{"sun397": 397, "cifar10": 10},  # CIFAR-10 is not in VTAB; cifar is CIFAR-100
}
SPECIALIZED = {
    **{"patch_camelyon": 2, "eurosat": 10, "resisc45": 45, "diabetic_retinopathy": 5},
    "colon_cells_4": 4,  # not in VTAB: nuclei in histology, where no folder of Patch Camelyon is
}
STRUCTURED = {
    **{"clevr_count": 8, "clevr_dist": 6, "dmlab": 6, "kitti": 4, "dsprites_loc": 16, "dsprites_ori": 16},
    **{"smallnorb_azi": 18, "smallnorb_ele": 9},
}
CLASSES = {**NATURAL, **SPECIALIZED, **STRUCTURED}
MEMORY = 4 * 2**30  # bytes; a larger split is decoded at every reading: dSprites' test set needs 11 GB at 224 pixels
MEND = "unpack the task's folder again, or see data/README.md for where it comes from"


Row = tuple[Path, int, str]  # an image, its label, and the list and line that name it


class Files:
    """The pixels of image files, decoded whenever they are indexed: stands in for the tensor in `Images.raw`."""

    dtype = torch.uint8

    def __init__(self, paths: list[Path], size: int, change: Callable = lambda image: image):
        self.paths, self.shape, self.change = paths, (len(paths), 3, size, size), change

    def __getitem__(self, index) -> UInt8[Tensor, "*batch 3 size size"]:
        """Return uint8 (3, size, size) for an int, (B, 3, size, size) for a slice or B indices."""
        chosen = np.arange(len(self.paths))[index]
        pixels = resize((self.change(decode(self.paths[i])) for i in np.atleast_1d(chosen)), self.shape[-1])
        return pixels if np.ndim(chosen) else pixels[0]


def decode(path: Path, where: str = "") -> Image.Image:
    """Return the image at `path` in RGB; `where` names the list and line that asked for it, for the error."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{where or path}: there is no image {path}; {MEND}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where or path}: cannot read the image {path} ({error}); {MEND}") from error


def lines(file: Path) -> list[str]:
    """Return the lines of a text file without their ends."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{file} is missing: a task needs {', '.join(LISTS.values())}; {MEND}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}); {MEND}") from error


def read_list(root: Path, name: str, classes: int | None, seen: dict[Path, str], folders: Sequence[str] = (".",)) -> list[Row]:
    """Return (image path, label, "list, line n") for each line of a list that is not blank.

    `classes` bounds the labels, where it is known. `seen` collects each image's place over the lists of a task, to find
    one that is listed twice: a training image in the test list would make the accuracy meaningless. The lines' paths are
    relative to the first of the `folders` in `root` that has the image. A path may have blanks: the last one ends it.
    """
    root, rows = root.resolve(), []
    for number, line in enumerate(lines(root / name), start=1):
        if not line.strip():
            continue
        where = f"{root / name}, line {number}"
        relative, _, label = line.strip().rpartition(" ")
        if not relative or not label.isascii() or not label.isdigit():
            example = "a path, a space and a label such as 'images/test/000000.jpg 3'"
            raise DataError(f"{where}: expected {example}, found {line!r}; {MEND}")
        if classes is not None and int(label) >= classes:
            raise DataError(f"{where}: label {label} is out of range; {root.name} has labels 0 to {classes - 1}; {MEND}")
        places = (root / folder / relative.strip() for folder in folders)
        path = next((place for place in places if place.is_file()), root / relative.strip()).resolve()
        if Path(relative).is_absolute() or not path.is_relative_to(root):
            raise DataError(f"{where}: the path {relative!r} leaves the task's folder; write it relative to {root}")
        if not path.is_file():
            raise DataError(f"{where}: there is no image {relative!r} in {root}; {MEND}")
        if path in seen:
            raise DataError(f"{where}: the image {relative!r} is already listed in {seen[path]}; keep it in one list")
        seen[path] = where
        rows.append((path, int(label), where))
    if not rows:
        raise DataError(f"{root / name} is empty: expected lines such as 'images/test/000000.jpg 3'; {MEND}")
    return rows


def class_names(root: Path, expected: int | None) -> tuple[str, ...] | None:
    """Return the names in `classes.txt`, or the labels as names where only their number is known, or None."""
    if not (root / "classes.txt").is_file():
        return None if expected is None else tuple(map(str, range(expected)))
    names = tuple(line.strip() for line in lines(root / "classes.txt") if line.strip())
    if not names or expected not in (None, len(names)):
        count = expected or "at least one"
        raise DataError(f"{root / 'classes.txt'} names {len(names)} classes, and {root.name} has {count}; mend or delete it")
    return names


def load_folder(root: str | Path, size: int, memory: int = MEMORY) -> Task:
    """Return the task in the folder `root`, named after the folder, its images resized to `size` pixels.

    VTAB's 19 tasks and CIFAR-10 have their known number of classes; another folder has that of `classes.txt` or,
    without one, the largest label plus one. A split of more than `memory` bytes stays on disk (`Files`), and there an
    unreadable image shows only when it is read. The task's `sha256` covers the image files' bytes and the labels.
    Raises `DataError` for anything missing, malformed or unreadable.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; put {root.name!r} there or set GLORA_DATA_DIR (see data/README.md)")
    known = CLASSES.get(root.name)
    names, seen = class_names(root, known), {}
    lists = {split: read_list(root, file, len(names) if names else None, seen) for split, file in LISTS.items()}
    if names is None:
        names = tuple(map(str, range(1 + max(label for rows in lists.values() for _, label, _ in rows))))
    group = "specialized" if root.name in SPECIALIZED else "structured" if root.name in STRUCTURED else "natural"
    return from_rows(root.name, group, "cifar" if root.name == "cifar10" else "", names, lists, size, memory)


def from_rows(
    name: str, group: str, stands_for: str, names: tuple[str, ...], lists: Mapping[str, Sequence[Row]], size: int,
    memory: int = MEMORY, change_test: Callable = lambda image: image,
) -> Task:  # fmt: skip
    """Return the task of the rows of each split; `change_test` is applied to each test image before it is resized."""
    parts = {split: images_of(rows, size, memory) for split, rows in lists.items() if split != "test"}
    parts["test"] = images_of(lists["test"], size, memory, change_test)
    return Task(name, group, stands_for, names, sha256=digest_of(lists), **parts)


def images_of(rows: Sequence[Row], size: int, memory: int = MEMORY, change: Callable = lambda image: image) -> Images:
    """Return the images of the rows, each changed and then resized; on disk (`Files`) where they need more than `memory`."""
    if len(rows) * 3 * size**2 > memory:
        raw = Files([path for path, _, _ in rows], size, change)
    else:
        raw = resize((change(decode(path, where)) for path, _, where in rows), size)
    return Images(raw, [label for _, label, _ in rows])


def digest_of(lists: Mapping[str, Sequence[Row]]) -> str:
    """Return the SHA-256 of the splits' image files and labels."""
    digest = hashlib.sha256()
    for split, rows in lists.items():
        for path, label, _ in rows:
            digest.update(f"{split} {label} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
