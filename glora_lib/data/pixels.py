"""Pictures of any kind as eight bits and three colours; what has no such meaning is refused."""

from pathlib import Path

import numpy as np
from PIL import Image

DEPTH = {"I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16}  # Pillow's modes of 16-bit grey -> bits
BITS_PER_SAMPLE = 258  # a TIFF's tag


def rgb(image: Image.Image) -> Image.Image:
    """Return a picture in RGB: 16 bits scaled to 8, transparent parts laid on white.

    Pillow alone would cut 16 bits off at 255, and show what lies hidden under transparent parts. EXIF's orientation is not
    applied, as torchvision does not.

    Raises ValueError for 32-bit and float pictures, which do not say what black and white are.
    """
    if image.mode in DEPTH or (image.mode == "I" and image.format == "PPM"):  # Pillow scales a PPM's own maximum to 16 bits
        image = _eight_bits(image)
    elif image.mode in ("I", "F"):
        kind = {"I": "32-bit whole", "F": "floating-point"}[image.mode]
        raise ValueError(f"its pixels are {kind} numbers, which do not say what black and white are; save it with 8 or 16 bits")
    if not transparent(image):
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def sixteen_bits(path: Path) -> bool:
    """Return whether a picture is grey of 16 bits, by its header."""
    with Image.open(path) as image:
        return image.mode in DEPTH or (image.mode == "I" and image.format == "PPM")


def transparent(image: Image.Image) -> bool:
    """Return whether a picture may have transparent parts, by its header."""
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def turned(image: Image.Image) -> bool:
    """Return whether EXIF says that the picture is to be turned or mirrored, by its header."""
    if image.format not in ("JPEG", "MPO", "TIFF", "WEBP"):  # others would have to be decoded to know
        return False
    return image.getexif().get(0x0112, 1) not in (0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    most = 2 ** DEPTH.get(image.mode, 16) - 1
    if image.format == "TIFF":  # 10 or 12 bits come in the mode of 16
        most = 2 ** min(16, int(image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0])) - 1
    values = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((values * 255 + most // 2) // most).clip(0, 255).astype(np.uint8))
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):  # the one value of 16 bits that is transparent
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey
