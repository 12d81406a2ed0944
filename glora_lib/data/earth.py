"""LandCover-10 and Koeppen-5: patches of NASA's Blue Marble with the land cover or the climate that dominates them.

The globe is cut into blocks and whole blocks are dealt to the splits, so that no pixel is seen twice. Koeppen-5 leaves a
margin inside each block as well, because climates change slowly and neighbours look alike.
"""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8
from PIL import Image

from glora_lib.data.packaged import BLUE_MARBLE, CLIMATE, LAND_COVER, Source
from glora_lib.data.task import DataError, Task, from_arrays

DOMINANCE = 0.7  # the share of a patch that its class covers
SHARES = (1 / 3, 1 / 6, 1 / 2)  # of the blocks, for train, val and test


@dataclass(frozen=True)
class Cutting:
    """How the globe is cut into patches; lengths in pixels of 1/15 degree."""

    classes: dict[int, str]  # the code in the map of labels, and the class's name
    sizes: tuple[int, int, int]  # patches a class in train, val and test
    patch: int
    stride: int  # between the patches of a block, so a half of `patch` lets them overlap
    block: int
    margin: int  # that each block leaves free on every side


# The ten classes of the International Geosphere-Biosphere Programme (IGBP) that dominate the most patches, by code.
# Left out: needleleaf and deciduous forests, closed shrubland, wetland, urban, mosaic (each below 60 whole patches).
LAND = Cutting(
    classes={
        **{0: "water", 2: "evergreen broadleaf forest", 5: "mixed forest", 7: "open shrubland", 8: "woody savanna"},
        **{9: "savanna", 10: "grassland", 12: "cropland", 15: "snow and ice", 16: "barren"},
    },
    **{"sizes": (80, 20, 200), "patch": 16, "stride": 8, "block": 128, "margin": 0},
)
CLIMATES = Cutting(
    classes={0: "A, tropical", 1: "B, arid", 2: "C, temperate", 3: "D, continental", 4: "E, polar"},
    **{"sizes": (160, 40, 300), "patch": 24, "stride": 12, "block": 120, "margin": 12},
)
# The map's 32 zones in its order: 4 of group A, 4 of B, 9 of C, 12 of D, 2 of E, and the ocean, which is no class.
# Entry 0 is not used by the map.
GROUP = np.repeat([255, 0, 1, 2, 3, 4, 255], [1, 4, 4, 9, 12, 2, 1]).astype(np.uint8)


@dataclass(frozen=True)
class Patches:
    """Where the patches that one class dominates lie."""

    block: Int[np.ndarray, " patches"]  # the block that holds the whole patch
    row: Int[np.ndarray, " patches"]  # of the patch's first pixel
    column: Int[np.ndarray, " patches"]
    code: Int[np.ndarray, " patches"]  # the dominant class
    overlaps: Bool[np.ndarray, " patches"]  # False for patches a whole patch apart, which share no pixel with each other


def find_patches(codes: Integer[np.ndarray, "height width"], cutting: Cutting) -> Patches:
    """Return all patches inside one block whose dominant class covers at least 70 %, given each pixel's class."""
    block, patch, stride, margin = cutting.block, cutting.patch, cutting.stride, cutting.margin
    height, width = (length // block for length in codes.shape)
    blocks = codes[: height * block, : width * block].reshape(height, block, width, block).swapaxes(1, 2)
    blocks = blocks[:, :, margin : block - margin, margin : block - margin]
    windows = np.lib.stride_tricks.sliding_window_view(blocks, (patch, patch), axis=(2, 3))[:, :, ::stride, ::stride]
    counts = np.stack([(windows == code).sum((-2, -1)) for code in cutting.classes], -1)
    y, x, i, j = np.nonzero(counts.max(-1) >= DOMINANCE * patch**2)
    code = np.array(list(cutting.classes))[counts[y, x, i, j].argmax(-1)]
    i, j = i * stride, j * stride
    overlaps = (i % patch > 0) | (j % patch > 0)
    return Patches(y * width + x, y * block + margin + i, x * block + margin + j, code, overlaps)


def choose(patches: Patches, pixels: UInt8[np.ndarray, "height width 3"], cutting: Cutting) -> list[np.ndarray]:
    """Return the indices of the patches of each split, as many a class as `sizes` says; `DataError` where there are fewer.

    Whole blocks are dealt to the splits, so no pixel is shared. Patches that do not overlap are preferred, and a patch
    whose content was taken before (uniform ocean, saturated ice) is passed over, so no image occurs twice in the task.
    """
    rng = np.random.default_rng(0)
    split_of = rng.choice(len(SHARES), size=patches.block.max() + 1, p=SHARES)[patches.block]
    order = np.lexsort((rng.random(len(patches.block)), patches.overlaps))
    chosen, seen = [], set()
    for split, size in enumerate(cutting.sizes):
        members = []
        for code, name in cutting.classes.items():
            kept = []
            for index in order[(split_of[order] == split) & (patches.code[order] == code)]:
                content = cut(pixels, patches, [index], cutting).tobytes()
                if content not in seen:
                    seen.add(content)
                    kept.append(index)
                if len(kept) == size:
                    break
            if len(kept) < size:
                raise DataError(f"split {split} has {len(kept)} patches of {name!r} and needs {size}")
            members += kept
        chosen.append(rng.permutation(members))
    return chosen


def cut(
    pixels: UInt8[np.ndarray, "height width 3"], patches: Patches, indices, cutting: Cutting
) -> UInt8[np.ndarray, "chosen patch patch 3"]:
    """Return the images of the patches with these indices."""
    corners = zip(patches.row[indices], patches.column[indices], strict=True)
    return np.stack([pixels[row : row + cutting.patch, column : column + cutting.patch] for row, column in corners])


def labelled(source: Source, cutting: Cutting, group: np.ndarray | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the splits: images of the Blue Marble (2,700 x 5,400), labels from `source`'s map at the pixels' centres.

    `group` gives the class of each code of the map, where they differ.
    """
    pixels = np.asarray(Image.open(io.BytesIO(BLUE_MARBLE.read())).convert("RGB"))
    codes = np.asarray(Image.open(io.BytesIO(source.read())))
    rows, columns = (
        ((np.arange(fine) + 0.5) * coarse / fine).astype(int) for fine, coarse in zip(pixels.shape, codes.shape, strict=False)
    )
    codes = codes[rows][:, columns]
    patches = find_patches(codes if group is None else group[codes], cutting)
    label_of = {code: label for label, code in enumerate(cutting.classes)}
    return {
        split: (cut(pixels, patches, indices, cutting), np.array([label_of[code] for code in patches.code[indices]]))
        for split, indices in zip(("train", "val", "test"), choose(patches, pixels, cutting), strict=True)
    }


def load_landcover_10(size: int) -> Task:
    """Return LandCover-10, 16 px: satellite patches with the MODIS land cover of 2019 that dominates, 800 / 200 / 2,000."""
    splits = labelled(LAND_COVER, LAND)
    return from_arrays("landcover_10", "specialized", "eurosat", list(LAND.classes.values()), splits, size)


def load_koeppen_5(size: int) -> Task:
    """Return Koeppen-5, 24 px: satellite patches with the main group of climates that dominates, 800 / 200 / 1,500."""
    splits = labelled(CLIMATE, CLIMATES, GROUP)
    return from_arrays("koeppen_5", "specialized", "", list(CLIMATES.classes.values()), splits, size)
