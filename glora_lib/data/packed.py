"""Built-in tasks as arrays at their native size, for machines without the packages that hold them."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from glora_lib.data.task import DataError, Task, from_arrays, kept_arrays
from glora_lib.runs import paths

FOLDER = "arrays"  # in GLORA_DATA_DIR


def to_bytes(load: Callable[[int], Task]) -> bytes:
    """Return a built-in task, given by its loader, as the content of an .npz file: arrays before resizing, and what it is."""
    with kept_arrays() as kept:
        load(8)
    arrays = {f"{split}_{what}": part for split, pair in kept["splits"].items() for what, part in zip("xy", pair, strict=True)}
    about = [kept["name"], kept["group"], kept["stands_for"], *kept["class_names"]]
    file = io.BytesIO()
    np.savez_compressed(file, about=np.array(about), **arrays)
    return file.getvalue()


def place(name: str) -> Path:
    """Return where a packed task lies in GLORA_DATA_DIR, whether it is there or not."""
    return paths.external_data() / FOLDER / f"{name}.npz"


def load(path: Path, size: int) -> Task:
    """Return the task in a file of `to_bytes` with images of `size` pixels; its `sha256` is computed from the arrays."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            name, group, stands_for, *classes = arrays["about"].tolist()
            splits = {split: (arrays[f"{split}_x"], arrays[f"{split}_y"]) for split in ("train", "val", "test")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a packed task ({error}); pack it again") from error
    return from_arrays(name, group, stands_for, classes, splits, size)
