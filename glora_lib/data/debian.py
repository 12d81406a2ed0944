"""Tasks from Debian packages, where they are installed: Fashion-MNIST, Tuxpaint-9 and its partner OpenClipart-9."""

import gzip
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from glora_lib.data.task import DataError, Task, from_arrays

SHARE = Path("/usr/share")
# a task's folder below SHARE, and the package that holds it
PLACES = {
    "fashion_mnist": ("datasets/fashion-mnist", "dataset-fashion-mnist"),
    "tuxpaint_9": ("tuxpaint/stamps", "tuxpaint-stamps-default"),
    "openclipart_9": ("openclipart/png", "openclipart-png"),
}
GARMENTS = (
    *("T-shirt or top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
PER_CLASS = {"train": 80, "val": 20, "test": 200}
# class: folders of Tuxpaint's stamps, folders of OpenClipart
DRAWN = {
    "bird": (("animals/birds",), ("animals/birds",)),
    "mammal": (("animals/mammals",), ("animals/mammals",)),
    "insect or spider": (("animals/insects",), ("animals/bugs",)),
    "fish": (("animals/fish",), ("animals/fish",)),
    "fruit or vegetable": (("food/fruit", "food/vegetables"), ("food/fruit", "food/vegetables")),
    "plant": (("plants",), ("plants/flowers", "plants/trees")),
    "vehicle": (("vehicles",), ("transportation/vehicles", "transportation/boating")),
    "building": (("town/houses", "town/monuments"), ("buildings",)),
    "road sign": (("town/roadsigns",), ("transportation/roadsigns",)),
}
SHARES = {"train": 0.55, "val": 0.15}  # of a class of Tuxpaint-9; the rest is for testing
SIDE = 64  # pixels of a stamp on its white square


def unavailable(name: str) -> str:
    """Return the command that installs a task, or "" where it is installed."""
    place, package = PLACES[name]
    if (SHARE / place).is_dir():
        return ""
    return f"{name} is not installed: apt-get install --no-install-recommends {package} (optional, Debian)"


def folder(name: str) -> Path:
    """Return the folder of a task; `DataError` with the command that installs it where it is absent."""
    if reason := unavailable(name):
        raise DataError(reason)
    return SHARE / PLACES[name][0]


def read_idx(file: Path) -> UInt8[np.ndarray, "*shape"]:
    """Return the array in a gzipped IDX file of bytes."""
    try:
        content = gzip.decompress(file.read_bytes())
        shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{file} cannot be read as IDX ({error}); apt-get install --reinstall dataset-fashion-mnist") from error


def load_fashion_mnist(size: int) -> Task:
    """Return Fashion-MNIST, 28 px: of each class the first 80 and the next 20 of its training, 200 of its test images."""
    root, splits = folder("fashion_mnist"), {}
    arrays = {
        part: (read_idx(root / f"{part}-images-idx3-ubyte.gz"), read_idx(root / f"{part}-labels-idx1-ubyte.gz").astype(int))
        for part in ("train", "t10k")
    }
    taken = PER_CLASS["train"]
    for split, part, first in (("train", "train", 0), ("val", "train", taken), ("test", "t10k", 0)):
        images, labels = arrays[part]
        chosen = [np.flatnonzero(labels == label)[first : first + PER_CLASS[split]] for label in range(len(GARMENTS))]
        chosen = np.sort(np.concatenate(chosen))
        splits[split] = (images[chosen], labels[chosen])
    return from_arrays("fashion_mnist", "natural", "", GARMENTS, splits, size)


def drawings(name: str) -> tuple[UInt8[np.ndarray, "images 64 64 3"], Int[np.ndarray, " images"]]:
    """Return all pictures of `tuxpaint_9` or `openclipart_9`, shrunk onto white squares, and their classes.

    A picture that occurs twice is kept once. Those that PIL does not read, for damage or more than 178 million pixels,
    are left out.
    """
    root, column = folder(name), {"tuxpaint_9": 0, "openclipart_9": 1}[name]
    images, labels = {}, []
    for label, places in enumerate(DRAWN.values()):
        for file in sorted(file for place in places[column] for file in (root / place).rglob("*.png")):
            try:
                stamp = _opened(file)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
                continue
            stamp.thumbnail((SIDE, SIDE))
            square = Image.new("RGBA", (SIDE, SIDE), "white")
            square.alpha_composite(stamp, ((SIDE - stamp.width) // 2, (SIDE - stamp.height) // 2))
            pixels = np.asarray(square.convert("RGB"))
            if pixels.tobytes() not in images:
                images[pixels.tobytes()] = pixels
                labels.append(label)
    return np.stack(list(images.values())), np.array(labels)


def _opened(file: Path) -> Image.Image:
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning), Image.open(file) as picture:
        return picture.convert("RGBA")


def load_tuxpaint_9(size: int) -> Task:
    """Return Tuxpaint-9, 64 px: photographs cut out on white, a seventh of each class for val, three tenths for test."""
    images, labels = drawings("tuxpaint_9")
    rng, members = np.random.default_rng(0), {"train": [], "val": [], "test": []}
    for label in range(len(DRAWN)):
        order = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum([round(share * len(order)) for share in SHARES.values()])
        for split, part in zip(members, np.split(order, cuts), strict=True):
            members[split].append(part)
    chosen = {split: rng.permutation(np.concatenate(parts)) for split, parts in members.items()}
    splits = {split: (images[indices], labels[indices]) for split, indices in chosen.items()}
    return from_arrays("tuxpaint_9", "natural", "", tuple(DRAWN), splits, size)
