"""A task: three splits of labelled images, already at the size that a backbone sees."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from glora_lib.data.pixels import rgb

# timm lists mean = std = 0.5 for the weights that were pretrained on ImageNet-21K. GLoRA, NOAH, FacT and RepAdapter
# normalise with ImageNet's statistics all the same, so the paper's numbers rest on these.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class DataWarning(UserWarning):
    """Data that can be used, but of which something should be known before their numbers are believed."""


class DataError(ValueError):
    """Data that is missing, damaged or malformed; the message names what was found, what was expected and the mend."""


class Images(Dataset):
    """Labelled images in memory, normalised when they are read.

    `raw` holds the unnormalised pixels, a uint8 tensor (N, 3, size, size) in 0..255, and `labels` an int64 tensor (N,).
    `raw` may be any object with a `shape` that returns such pixels when indexed with an int or a list of ints;
    `folder.Files`, for sets that memory cannot hold, is one.
    """

    def __init__(self, raw, labels: Tensor | np.ndarray | Sequence[int]):
        labels = torch.as_tensor(labels, dtype=torch.int64)
        if getattr(raw, "dtype", None) != torch.uint8 or len(raw.shape) != 4 or raw.shape[1] != 3:
            found = f"{getattr(raw, 'dtype', None)} {tuple(raw.shape)}"
            raise DataError(f"images must be uint8 of shape (N, 3, size, size), found {found}")
        if labels.shape != (raw.shape[0],):
            raise DataError(f"{raw.shape[0]} images need {raw.shape[0]} labels, found shape {tuple(labels.shape)}")
        self.raw, self.labels = raw, labels
        self.mean = torch.tensor(MEAN).view(3, 1, 1) * 255
        self.std = torch.tensor(STD).view(3, 1, 1) * 255

    def to(self, device: torch.device) -> "Images":
        """Return the same images with pixels and labels on `device`; what stays on disk stays as it is."""
        if not isinstance(self.raw, Tensor):
            return self
        moved = Images.__new__(Images)
        moved.raw, moved.labels, moved.mean, moved.std = (x.to(device) for x in (self.raw, self.labels, self.mean, self.std))
        return moved

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> tuple[Float32[Tensor, "*batch 3 size size"], Int64[Tensor, "*batch"]]:
        """Return (images, labels): float32 (3, S, S) and int64 () for an int, (B, 3, S, S) and (B,) for B indices.

        A list, an array or a tensor of ints is a whole batch, so that a loader with a `BatchSampler` as its sampler and
        `batch_size=None` reads a batch in one indexing instead of stacking single images.
        """
        return (self.raw[index].float() - self.mean) / self.std, self.labels[index]


@dataclass(frozen=True)
class Task:
    """Three disjoint splits with the same classes; what the splits are used for is `train`'s and `search`'s affair."""

    name: str
    group: str  # natural | specialized | structured | smoke: VTAB's groups, and one for the tests
    stands_for: str  # the VTAB task that this one replaces, "" when it replaces none
    class_names: tuple[str, ...]  # label i means class_names[i]
    train: Images
    val: Images
    test: Images
    sha256: str  # of all images and labels before resizing, so it does not depend on the profile
    notes: tuple[str, ...] = ()  # what a reader of the data should know, such as pictures that are in train and in test

    @property
    def classes(self) -> int:
        """The number of classes, which is the width of the head."""
        return len(self.class_names)


def resize(images: Iterable, size: int) -> UInt8[Tensor, "images 3 size size"]:
    """Return the images as uint8 (N, 3, size, size), resized with PIL's bicubic filter (which antialiases).

    `images` yields PIL images or uint8 arrays of shape (H, W) or (H, W, 3); for other kinds of pictures see `pixels.rgb`.
    The aspect ratio is not kept: the authors' `Resize((224, 224), interpolation=3)` squeezes every image to the square.
    """

    def pixels(image) -> np.ndarray:
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        return np.asarray(rgb(image).resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)

    # One image at a time: the originals of a large folder would not fit into memory together.
    return torch.from_numpy(np.fromiter(map(pixels, images), np.dtype((np.uint8, (3, size, size)))))


@contextmanager
def kept_arrays() -> Iterator[dict]:
    """While it lasts, what `from_arrays` is called with stands in the dict: the arrays at their native size."""
    kept: dict = {}
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


_kept: ContextVar[dict | None] = ContextVar("kept", default=None)


def from_arrays(name: str, group: str, stands_for: str, class_names: Sequence[str], splits: dict, size: int) -> Task:
    """Return the task of `splits`: {"train" | "val" | "test": (uint8 (N, H, W) or (N, H, W, 3), int (N,))}."""
    if (kept := _kept.get()) is not None:
        kept |= {"name": name, "group": group, "stands_for": stands_for, "class_names": class_names, "splits": splits}
    digest, parts = hashlib.sha256(), {}
    for split in ("train", "val", "test"):
        images, labels = splits[split]
        labels = np.ascontiguousarray(labels, np.int64)
        if labels.min() < 0 or labels.max() >= len(class_names):
            raise DataError(
                f"{name}, {split}: labels must lie in 0..{len(class_names) - 1}, found {labels.min()}..{labels.max()}"
            )
        digest.update(f"{split} {images.shape}".encode())
        digest.update(np.ascontiguousarray(images))
        digest.update(labels.astype("<i8"))
        parts[split] = Images(resize(images, size), labels)
    return Task(name, group, stands_for, tuple(class_names), sha256=digest.hexdigest(), **parts)
