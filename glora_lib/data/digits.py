"""MNIST-5k, the same digits over photographs as MNIST-M has them, and digits to generate."""

import gzip
import io

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from glora_lib.data.folder import load_folder
from glora_lib.data.packaged import CHINA, FLOWER, MNIST
from glora_lib.data.task import Task, from_arrays
from glora_lib.runs.paths import external_data

DIGITS = [str(digit) for digit in range(10)]
PER_CLASS = {"train": 80, "val": 20, "test": 400}  # VTAB-1K's 800 and 200, and what is left of 5,000
TEST_M = 2000  # test images of MNIST-M, the first of MNIST-5k's
BLOCK = (142, 128)  # pixels, high and wide: 3 x 5 blocks in a photograph of 427 x 640
BLOCKS = {"train": 6, "val": 3, "test": 6}  # of the 15 blocks of each photograph
KINDS = ("mnist", "mnist_colours", "mnist_m", "svhn")
CONTRAST = 96  # channels of a colour lie below this, or as far below 255
CROP = (28, 112)  # the least and the largest side of a crop, in pixels


def mnist_splits() -> dict[str, tuple[UInt8[np.ndarray, "images 28 28"], Int[np.ndarray, " images"]]]:
    """Return the 5,000 digits, dealt to the splits at random within each class, the same at every call."""
    table = np.loadtxt(io.StringIO(gzip.decompress(MNIST.read()).decode()), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(int)
    rng = np.random.default_rng(0)
    members = {split: [] for split in PER_CLASS}
    for label in range(10):
        order = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum([PER_CLASS["train"], PER_CLASS["val"]])
        for split, part in zip(members, np.split(order, cuts), strict=True):
            members[split].append(part)
    chosen = {split: rng.permutation(np.concatenate(parts)) for split, parts in members.items()}
    return {split: (images[indices], labels[indices]) for split, indices in chosen.items()}


def load_mnist_5k(size: int) -> Task:
    """Return MNIST-5k, 28 px: 500 digits a class, of which 80 train, 20 validate and 400 test (800 / 200 / 4,000)."""
    return from_arrays("mnist_5k", "natural", "svhn", DIGITS, mnist_splits(), size)


def backgrounds() -> dict[str, list[UInt8[np.ndarray, "142 128 3"]]]:
    """Return the blocks of both photographs that each split may cut its backgrounds from: no two splits share a pixel."""
    rng, found = np.random.default_rng(0), {split: [] for split in BLOCKS}
    for source in (CHINA, FLOWER):
        photo = np.asarray(Image.open(io.BytesIO(source.read())).convert("RGB"))
        high, wide = (length // side for length, side in zip(photo.shape, BLOCK, strict=False))
        corners = rng.permutation([(y * BLOCK[0], x * BLOCK[1]) for y in range(high) for x in range(wide)])
        cuts = np.cumsum([BLOCKS["train"], BLOCKS["val"]])
        for split, part in zip(BLOCKS, np.split(corners, cuts), strict=True):
            found[split] += [photo[y : y + BLOCK[0], x : x + BLOCK[1]] for y, x in part]
    return found


def over_photographs(
    digits: UInt8[np.ndarray, "images 28 28"], blocks: list[np.ndarray], rng: np.random.Generator
) -> UInt8[np.ndarray, "images 28 28 3"]:
    """Return |photograph - digit| for random square crops of the blocks, shrunk to 28 pixels and mirrored at random.

    Ganin and Lempitsky (2015) make MNIST-M so, from crops of the 500 photographs of BSDS500.
    """
    found = []
    for digit in digits:
        block = blocks[rng.integers(len(blocks))]
        side = int(rng.integers(CROP[0], CROP[1] + 1))
        y, x = rng.integers(block.shape[0] - side + 1), rng.integers(block.shape[1] - side + 1)
        crop = Image.fromarray(block[y : y + side, x : x + side]).resize((28, 28), Image.Resampling.BICUBIC)
        crop = np.asarray(crop)[:, :: rng.choice((-1, 1))].astype(int)
        found.append(np.abs(crop - digit[:, :, None]).astype(np.uint8))
    return np.stack(found)


def load_mnist_m(size: int) -> Task:
    """Return MNIST-M in small, 28 px: MNIST-5k's digits, each in the same split, over photographs (800 / 200 / 2,000)."""
    blocks, rng, splits = backgrounds(), np.random.default_rng(0), {}
    for split, (digits, labels) in mnist_splits().items():
        chosen = first_of_each(labels, TEST_M // 10)
        splits[split] = (over_photographs(digits[chosen], blocks[split], rng), labels[chosen])
    return from_arrays("mnist_m", "natural", "svhn", DIGITS, splits, size)


def first_of_each(labels: Int[np.ndarray, " images"], count: int) -> Int[np.ndarray, " chosen"]:
    """Return the indices of the first `count` images of each class, or of all where there are fewer, in their order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def over_colours(digits: UInt8[np.ndarray, "images 28 28"], rng: np.random.Generator) -> UInt8[np.ndarray, "images 28 28 3"]:
    """Return |colour - digit| for one random colour a picture, of which no channel is so grey that the digit would vanish."""
    colours = rng.integers(0, CONTRAST, (len(digits), 1, 1, 3))
    colours = np.where(rng.random(colours.shape) < 0.5, colours, 255 - colours)
    return np.abs(colours - digits[..., None].astype(int)).astype(np.uint8)


def for_generation(kind: str) -> dict[str, tuple[UInt8[np.ndarray, "images 28 28 3"], Int[np.ndarray, " images"]]]:
    """Return digits to generate, {"train": ..., "held_out": ...}, by the name of their kind.

    "mnist" has 4,000 and 1,000 plain digits: the test digits of the tasks above, and their training and validation digits.
    "mnist_colours" has the same over one colour each, "mnist_m" over photographs, and "svhn" the test images of VTAB's folder
    to train on and its 800 and 200 held out, shrunk to 28 pixels. Raises ValueError for another name.
    """
    if kind == "svhn":
        return _house_numbers()
    if kind not in KINDS:
        raise ValueError(f"there are no digits {kind!r} to generate; valid: {', '.join(KINDS)}")
    splits, blocks, rng = mnist_splits(), backgrounds(), np.random.default_rng(1)
    names = {"train": ("test",), "held_out": ("train", "val")}
    found = {}
    for part, members in names.items():
        digits = np.concatenate([splits[name][0] for name in members])
        labels = np.concatenate([splits[name][1] for name in members])
        place = "train" if part == "train" else "test"  # no block lies in both
        if kind == "mnist":
            images = np.repeat(digits[..., None], 3, axis=-1)
        else:
            images = over_colours(digits, rng) if kind == "mnist_colours" else over_photographs(digits, blocks[place], rng)
        found[part] = (images, labels)
    return found


def _house_numbers() -> dict[str, tuple[UInt8[np.ndarray, "images 28 28 3"], Int[np.ndarray, " images"]]]:
    task = load_folder(external_data() / "vtab-1k" / "svhn", 28)
    found = {}
    for part, members in {"train": (task.test,), "held_out": (task.train, task.val)}.items():
        pixels = np.concatenate([np.asarray(split.raw[:]) for split in members]).transpose(0, 2, 3, 1)
        found[part] = (pixels, np.concatenate([np.asarray(split.labels) for split in members]))
    return found
