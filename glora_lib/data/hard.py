"""Test images that a fixed ConvNet gets wrong, the way in which ImageNet-A was made (Hendrycks et al. 2021).

The ConvNet is EfficientNet-Lite0 with ImageNet-1k weights that come in a package. It chooses among the classes of the task,
all of which are ImageNet's.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from glora_lib.backbones.efficientnet import FILE, convnet
from glora_lib.data.task import DataError, Images
from glora_lib.runs import paths
from glora_lib.training.files import replacing

SIZE = 224  # pixels that the ConvNet was trained with


@torch.no_grad()
def wrong(images: Images, wnids: Sequence[str], batch: int = 50) -> Bool[Tensor, " images"]:
    """Return which images the ConvNet gives another class than their label; label i is ImageNet's class `wnids[i]`.

    The images are of `SIZE`. Raises `DataError` for a class that is not one of ImageNet's thousand.
    """
    from timm.data import ImageNetInfo  # slow to import, and the rest of the library does without

    known = ImageNetInfo().label_names()
    if unknown := [wnid for wnid in wnids if wnid not in known]:
        raise DataError(f"not among ImageNet's 1,000 classes: {', '.join(unknown)}")
    columns, model = [known.index(wnid) for wnid in wnids], convnet()
    starts = range(0, len(images), batch)
    guesses = [model((images.raw[i : i + batch].float() - 127) / 128)[:, columns].argmax(1) for i in starts]
    return torch.cat(guesses) != images.labels


def cached(digest: str, load: Callable[[], Images], wnids: Sequence[str]) -> Bool[Tensor, " images"]:
    """Return `wrong` of the images that `load` gives, from the cache where it has been computed: a minute for 1,000 images.

    `digest` is that of the images; the file's name holds it together with those of the weights and the classes.
    """
    key = hashlib.sha256(f"{digest} {FILE.sha256} {' '.join(wnids)}".encode()).hexdigest()
    path = paths.CACHE / f"hard-{key[:16]}.npy"
    with suppress(OSError, ValueError, EOFError):  # absent or damaged: computed again
        return torch.from_numpy(np.load(path))
    mask = wrong(load(), wnids)
    with suppress(OSError), replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, mask.numpy())
    return mask
