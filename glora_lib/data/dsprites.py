"""dSpr-Loc and dSpr-Ori: a white square, ellipse or heart on black, and the label is where it is or how it is turned.

The factors are those of dSprites (Matthey et al. 2017): 3 shapes, 6 scales, 40 orientations, 32 x 32 positions, binary
images of 64 pixels. The labels are VTAB's: 32 horizontal positions or 40 orientations, cut into 16 bins. As in dSprites the
orientations run from 0 to 2 pi with both ends, so the first and the last look the same, and a square looks nearly the
same after a quarter turn, an ellipse after half a turn.
"""

import numpy as np
from jaxtyping import Bool, Int, UInt8

from glora_lib.data.task import Task, from_arrays

SIZES = {"train": 800, "val": 200, "test": 2000}
PIXELS, BINS = 64, 16
SHAPES = ("square", "ellipse", "heart")
FACTORS = ("shape", "scale", "orientation", "x", "y")
SCALES, ORIENTATIONS, POSITIONS = 6, 40, 32  # how many values each factor has
LARGEST = 11.0  # pixels that the unit length of a shape takes at the largest scale; the smallest is half of it
HEART = 0.2935  # height of the heart's centre of mass above the origin of its equation
FIRST, LAST = 16.0, 48.0  # pixels between which the centre lies: no shape touches the border


def draw(shape: int, scale: int, orientation: int, x: int, y: int) -> Bool[np.ndarray, "64 64"]:
    """Return the image of one combination of factors, given by their indices: True inside the shape."""
    grid = np.arange(PIXELS) + 0.5
    across, down = (grid - (FIRST + place / (POSITIONS - 1) * (LAST - FIRST)) for place in (x, y))
    size = LARGEST * (0.5 + 0.5 * scale / (SCALES - 1))
    angle = 2 * np.pi * orientation / (ORIENTATIONS - 1)
    u = (np.cos(angle) * across + np.sin(angle) * down[:, None]) / size
    v = (np.cos(angle) * down[:, None] - np.sin(angle) * across) / size
    match SHAPES[shape]:
        case "square":
            return (np.abs(u) <= 0.85) & (np.abs(v) <= 0.85)
        case "ellipse":
            return u**2 + 4 * v**2 <= 1
        case _:  # the sextic heart (x^2 + y^2 - 1)^3 = x^2 y^3 about its centre of mass, its tip at the bottom
            p, q = u / 0.85, HEART - v / 0.85
            return (p**2 + q**2 - 1) ** 3 <= p**2 * q**3


def label_of(factor: int, values: int) -> int:
    """Return the bin of a factor's index: VTAB's floor(index / (values / 16))."""
    return int(factor / (values / BINS))


def splits(factor: str) -> dict[str, tuple[UInt8[np.ndarray, "images 64 64"], Int[np.ndarray, " images"]]]:
    """Return the splits labelled by `factor`, "x" or "orientation": images of 0 and 255, no two of all alike.

    The 16 labels take turns; the other factors are drawn at random, the same at every call.
    """
    values = {"x": POSITIONS, "orientation": ORIENTATIONS}[factor]
    members = [[value for value in range(values) if label_of(value, values) == label] for label in range(BINS)]
    rng, seen, found = np.random.default_rng(0), set(), {}
    for split, size in SIZES.items():
        images, labels = [], np.arange(size) % BINS
        while len(images) < size:
            limits = (len(SHAPES), SCALES, ORIENTATIONS, POSITIONS, POSITIONS)
            chosen = dict(zip(FACTORS, rng.integers(limits).tolist(), strict=True))
            image = draw(**(chosen | {factor: int(rng.choice(members[labels[len(images)]]))}))
            if image.tobytes() not in seen:
                seen.add(image.tobytes())
                images.append(image)
        found[split] = (np.stack(images).astype(np.uint8) * 255, labels)
    return found


def load_dsprites_loc(size: int) -> Task:
    """Return dSpr-Loc, 64 px: 800 / 200 / 2,000 images by the horizontal position, 16 classes."""
    names = [f"position {2 * label} or {2 * label + 1}" for label in range(BINS)]
    return from_arrays("dsprites_loc", "structured", "dsprites_loc", names, splits("x"), size)


def load_dsprites_ori(size: int) -> Task:
    """Return dSpr-Ori, 64 px: 800 / 200 / 2,000 images by the orientation, 16 classes."""
    names = [f"from {360 * label / BINS:g} degrees" for label in range(BINS)]
    return from_arrays("dsprites_ori", "structured", "dsprites_ori", names, splits("orientation"), size)
