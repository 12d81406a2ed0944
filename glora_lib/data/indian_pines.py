"""IndianPines-9: what grows on a field, from patches of one hyperspectral picture of Indiana (AVIRIS, June 1992).

One picture of 145 x 145 pixels has to serve three splits. It is cut into blocks that are dealt to the splits, and a patch
belongs to a split only when it lies there as a whole: no pixel is seen by two splits, and the centres of two splits'
patches have at least 8 pixels between them.
"""

import io

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from glora_lib.data.packaged import AVIRIS, CROPS
from glora_lib.data.task import Task, from_arrays

# The nine of 16 classes with more than 400 pixels, by code; the others have too few for three splits.
CLASSES = {
    **{2: "corn, no till", 3: "corn, minimum till", 5: "grass, pasture", 6: "grass, trees", 8: "hay, windrowed"},
    **{10: "soybean, no till", 11: "soybean, minimum till", 12: "soybean, clean till", 14: "woods"},
}
SIZES = {"train": 800, "val": 200, "test": 1000}
PATCH, BLOCK = 9, 16  # pixels, of 20 metres each
SHARES = (0.4, 0.2, 0.4)  # of the blocks
DEAL = 1345  # of 1,500 seeds the one that leaves the rarest class of any split the most patches for its quota


def territories(height: int, width: int) -> Int[np.ndarray, "height width"]:
    """Return the split of each pixel, 0, 1 or 2: blocks of 16 x 16 pixels, dealt at random."""
    high, wide = -(-height // BLOCK), -(-width // BLOCK)
    dealt = np.random.default_rng(DEAL).choice(len(SHARES), size=(high, wide), p=SHARES)
    return np.kron(dealt, np.ones((BLOCK, BLOCK), int))[:height, :width]


def inside(territory: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Return the centres of the patches that lie in the territory as a whole."""
    whole = np.lib.stride_tricks.sliding_window_view(territory, (PATCH, PATCH)).all((-2, -1))
    return np.pad(whole, PATCH // 2)


def take_turns(centres: list[np.ndarray], size: int) -> list[np.ndarray]:
    """Return `size` centres, one of each class in turn; a class with none left is passed over."""
    turns = sorted((turn, label) for label, places in enumerate(centres) for turn in range(len(places)))[:size]
    return [centres[label][: sum(other == label for _, other in turns)] for label in range(len(centres))]


def colours(
    bands: Float[np.ndarray, "height width bands"], fitted_on: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the first three principal components of the pixels `fitted_on`, their 1st to 99th percentile as 0..255.

    A component's sign is arbitrary; here its largest weight is positive.
    """
    sample = bands[fitted_on]
    mean = sample.mean(0)
    _, vectors = np.linalg.eigh(np.cov(sample, rowvar=False))
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), range(3)])
    low, high = np.percentile((sample - mean) @ axes, (1, 99), axis=0)
    return (np.clip(((bands - mean) @ axes - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)


def load_indian_pines_9(size: int) -> Task:
    """Return IndianPines-9, 9 px: 800 / 200 / 1,000 overlapping patches with the class of their central pixel."""
    bands = np.load(io.BytesIO(AVIRIS.read()), allow_pickle=False).astype(float)
    codes = np.load(io.BytesIO(CROPS.read()), allow_pickle=False)
    split_of = territories(*codes.shape)
    pixels = colours(bands, split_of == 0)
    rng, splits, half = np.random.default_rng(0), {}, PATCH // 2
    for number, (split, count) in enumerate(SIZES.items()):
        usable = inside(split_of == number)
        centres = [rng.permutation(np.argwhere(usable & (codes == code))) for code in CLASSES]
        chosen = take_turns(centres, count)
        labels = np.repeat(np.arange(len(CLASSES)), [len(places) for places in chosen])
        order = rng.permutation(count)
        places = np.concatenate(chosen)[order]
        images = np.stack([pixels[y - half : y + half + 1, x - half : x + half + 1] for y, x in places])
        splits[split] = (images, labels[order])
    return from_arrays("indian_pines_9", "specialized", "resisc45", list(CLASSES.values()), splits, size)
