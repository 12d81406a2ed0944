"""CLEVR-Count and CLEVR-Dist: rendered scenes with VTAB's labels.

Count: the number of objects minus three. Dist: the depth of the nearest object along the camera's axis, cut at 8, 8.5, 9,
9.5 and 10 (VTAB's `clevr.py`: the thresholds [0, 8, 8.5, 9, 9.5, 10, 100] on `pixel_coords`' third entry).
"""

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from glora_lib.data import clevr_scene
from glora_lib.data.clevr_scene import FEWEST, MOST, nearest_depth, render
from glora_lib.data.task import Task, from_arrays
from glora_lib.runs import paths
from glora_lib.training.files import replacing

SIZES = {"train": 800, "val": 200, "test": 2000}
THRESHOLDS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
COUNTS = [f"{count} objects" for count in range(FEWEST, MOST + 1)]
DISTANCES = ["below 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "above 10"]


def distance_label(depth: float) -> int:
    """Return the index of the last threshold below `depth`."""
    return int(np.searchsorted(THRESHOLDS, depth)) - 1


def render_count(number: int, index: int, label: int) -> UInt8[np.ndarray, "64 64 3"]:
    """Return image `index` of split `number`: a scene of `label + 3` objects."""
    return render(np.random.default_rng((number, index)), FEWEST + label)


def render_dist(number: int, index: int, label: int) -> UInt8[np.ndarray, "64 64 3"]:
    """Return image `index` of split `number`: scenes of three to ten objects are drawn until one has the label."""
    rng = np.random.default_rng((number, index, 1))
    return render(rng, None, lambda solids, camera: distance_label(nearest_depth(solids, camera)) == label)


def render_split(
    image: Callable, classes: int, split: str, size: int
) -> tuple[UInt8[np.ndarray, "size 64 64 3"], Int[np.ndarray, " size"]]:
    """Return the first `size` images of a split and their labels, given `render_count` or `render_dist`.

    The labels take turns, so a split is as balanced as its size allows. Each image has a seed of its own, so it does not
    depend on how many are rendered.
    """
    number, labels = list(SIZES).index(split), np.arange(size) % classes
    return np.stack([image(number, index, int(label)) for index, label in enumerate(labels)]), labels


def cached(name: str, image: Callable, classes: int, sizes: dict[str, int] = SIZES) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the splits from the cache, or render and store them (about a minute for all 3,000 images).

    The file's name holds a hash of the renderer's source and of `sizes`: a changed scene is never read from an old file.
    """
    source = b"".join(Path(file).read_bytes() for file in (__file__, clevr_scene.__file__))
    key = hashlib.sha256(source + repr(sizes).encode()).hexdigest()[:16]
    file = paths.CACHE / f"{name}-{key}.npz"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            splits = {split: (arrays[split], arrays[f"{split}_labels"]) for split in sizes}
        if all(len(images) == sizes[split] for split, (images, _) in splits.items()):
            return splits
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass  # absent or damaged: rendered again
    splits = {split: render_split(image, classes, split, size) for split, size in sizes.items()}
    arrays = {split: images for split, (images, _) in splits.items()}
    arrays |= {f"{split}_labels": labels for split, (_, labels) in splits.items()}
    with (
        suppress(OSError),
        replacing(file) as temporary,
        temporary.open("wb") as stream,
    ):  # rendered anew where it cannot be kept
        np.savez_compressed(stream, **arrays)
    return splits


def load_clevr_count(size: int) -> Task:
    """Return CLEVR-Count, 64 px: 800 / 200 / 2,000 images of three to ten objects, eight classes."""
    splits = cached("clevr_count", render_count, len(COUNTS))
    return from_arrays("clevr_count", "structured", "clevr_count", COUNTS, splits, size)


def load_clevr_dist(size: int) -> Task:
    """Return CLEVR-Dist, 64 px: 800 / 200 / 2,000 images by the depth of the nearest object, six classes."""
    splits = cached("clevr_dist", render_dist, len(DISTANCES))
    return from_arrays("clevr_dist", "structured", "clevr_dist", DISTANCES, splits, size)
