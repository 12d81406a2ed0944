"""VTAB-1K folders: the layout that NOAH introduced and that FacT, RepAdapter and GLoRA read.

    <task>/train800.txt  val200.txt  test.txt  [train800val200.txt]  [classes.txt]
    <task>/images/test/000000.jpg ...

A list has one image a line, the path inside the task's folder and the label: `images/test/000000.jpg 3`. `classes.txt`
has one class name a line. `train800val200.txt` repeats the first two lists and is not read.
"""

import hashlib
import os
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from glora_lib.data.notes import Row, notes_of
from glora_lib.data.pixels import rgb
from glora_lib.data.task import DataError, DataWarning, Images, Task, resize

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
            return rgb(image)
    except FileNotFoundError:
        raise DataError(f"{where or path}: there is no image {path}; {MEND}") from None
    except Exception as error:  # decoders raise whatever they like
        raise DataError(f"{where or path}: cannot read the image {path} ({error}); {MEND}") from error


def lines(file: Path) -> list[str]:
    """Return the lines of a text file without their ends."""
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{file} is missing: a task needs {', '.join(LISTS.values())}; {MEND}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}); {MEND}") from error


def read_list(root: Path, name: str, classes: int | None, seen: dict[Path, str], folders: Sequence[str] = (".",)) -> list[Row]:
    """Return (image path, label, "list, line n") for each line of a list that is not blank.

    `classes` bounds the labels, where it is known. `seen` collects each image's place over the lists of a task, to find
    one that is listed twice: a training image in the test list would make the accuracy meaningless. The lines' paths are
    relative to the first of the `folders` in `root` that has the image. A path may have blanks: the last one ends it.
    What a line says must stay inside `root`; images and folders may be links to another place.
    """
    root, rows = root.absolute(), []
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
        inside = os.path.normpath(relative.strip())
        if Path(inside).is_absolute() or inside.split(os.sep)[0] == "..":
            raise DataError(f"{where}: the path {relative!r} leaves the task's folder; write it relative to {root}")
        places = (Path(os.path.normpath(root / folder / inside)) for folder in folders)
        path = next((place for place in places if place.is_file()), root / inside)
        if not path.is_file():
            raise DataError(f"{where}: there is no image {relative!r} in {root}; {cause(root, inside)}")
        if path in seen:
            raise DataError(f"{where}: the image {relative!r} is already listed in {seen[path]}; keep it in one list")
        seen[path] = where
        rows.append((path, int(label), where))
    if not rows:
        raise DataError(f"{root / name} is empty: expected lines such as 'images/test/000000.jpg 3'; {MEND}")
    return rows


def cause(root: Path, relative: str, mend: str = MEND) -> str:
    """Return what most likely keeps an image from being found, and what mends it, else `mend`."""
    if "\\" in relative:
        return "the path has backslashes: write it with /"
    for form in ("NFC", "NFD"):
        if (root / unicodedata.normalize(form, relative)).is_file():
            return f"it is there under the same letters in another form of Unicode ({form}): convert the list to that"
    return mend


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
        names = numbered(lists, root)
    group = "specialized" if root.name in SPECIALIZED else "structured" if root.name in STRUCTURED else "natural"
    return from_rows(root.name, group, "cifar" if root.name == "cifar10" else "", names, lists, size, memory)


def numbered(lists: Mapping[str, Sequence[Row]], root: Path) -> tuple[str, ...]:
    """Return as many classes as the largest label needs, named by their numbers; `DataError` if there are fewer images."""
    rows = [row for part in lists.values() for row in part]
    _, label, where = max(rows, key=lambda row: row[1])
    if label >= len(rows):
        raise DataError(
            f"{where}: the label {label} would make {label + 1:,} classes of {len(rows):,} images; number them from 0, or name "
            f"them in {root / 'classes.txt'}"
        )
    return tuple(map(str, range(label + 1)))


def from_rows(
    name: str, group: str, stands_for: str, names: tuple[str, ...], lists: Mapping[str, Sequence[Row]], size: int,
    memory: int = MEMORY, change_test: Callable = lambda image: image,
) -> Task:  # fmt: skip
    """Return the task of the rows of each split; `change_test` is applied to each test image before it is resized.

    Its notes say what `notes_of` finds; what makes its accuracy meaningless is a `DataWarning` as well.
    """
    parts = {split: images_of(rows, size, memory) for split, rows in lists.items() if split != "test"}
    parts["test"] = images_of(lists["test"], size, memory, change_test)
    found = hashes_of(lists)
    notes, grave = notes_of(lists, found, names)
    for note in grave:
        warnings.warn(f"{name}: {note}", DataWarning, stacklevel=3)
    return Task(name, group, stands_for, names, sha256=digest_of(lists, found), notes=(*grave, *notes), **parts)


def images_of(rows: Sequence[Row], size: int, memory: int = MEMORY, change: Callable = lambda image: image) -> Images:
    """Return the images of the rows, each changed and then resized; on disk (`Files`) where they need more than `memory`."""
    if len(rows) * 3 * size**2 > memory:
        raw = Files([path for path, _, _ in rows], size, change)
    else:
        raw = resize((change(decode(path, where)) for path, _, where in rows), size)
    return Images(raw, [label for _, label, _ in rows])


def hashes_of(lists: Mapping[str, Sequence[Row]]) -> dict[str, list[bytes]]:
    """Return the SHA-256 of each image file, split by split."""
    return {split: [hashlib.sha256(path.read_bytes()).digest() for path, _, _ in rows] for split, rows in lists.items()}


def digest_of(lists: Mapping[str, Sequence[Row]], found: Mapping[str, list[bytes]] | None = None) -> str:
    """Return the SHA-256 of the splits' image files and labels; `found` is what `hashes_of` gives, if it is known."""
    digest, found = hashlib.sha256(), found or hashes_of(lists)
    for split, rows in lists.items():
        for (_, label, _), content in zip(rows, found[split], strict=True):
            digest.update(f"{split} {label} ".encode() + content)
    return digest.hexdigest()
