"""Test images that a fixed ConvNet gets wrong, the way in which ImageNet-A was made (Hendrycks et al. 2021).

The ConvNet is EfficientNet-Lite0 with ImageNet-1k weights that come in a package. It chooses among the classes of the task,
all of which are ImageNet's.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Sequence

import numpy as np
import timm
import torch
from jaxtyping import Bool
from timm.data import ImageNetInfo
from torch import Tensor, nn

from glora_lib import paths
from glora_lib.data.packaged import EFFICIENTNET
from glora_lib.data.task import DataError, Images

SIZE = 224  # pixels that the ConvNet was trained with
# the package's names of a block's parts, and timm's: the first block has no expansion, so that its names are shifted
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}
AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def convnet() -> nn.Module:
    """Return EfficientNet-Lite0 with the packaged weights, in timm's form, for images of `SIZE` scaled to (x - 127) / 128."""
    model = timm.create_model("tf_efficientnet_lite0")
    places = [f"blocks.{stage}.{block}" for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    state = {}
    for name, tensor in torch.load(io.BytesIO(EFFICIENTNET.read()), weights_only=True).items():
        if found := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            number, part, rest = int(found[1]), found[2], found[3]
            state[f"{places[number]}.{(OTHERS if number else FIRST)[part]}.{rest}"] = tensor
        else:
            part, rest = name.split(".")
            state[f"{AROUND[part]}.{rest}"] = tensor
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def wrong(images: Images, wnids: Sequence[str], batch: int = 50) -> Bool[Tensor, " images"]:
    """Return which images the ConvNet gives another class than their label; label i is ImageNet's class `wnids[i]`.

    The images are of `SIZE`. Raises `DataError` for a class that is not one of ImageNet's thousand.
    """
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
    key = hashlib.sha256(f"{digest} {EFFICIENTNET.sha256} {' '.join(wnids)}".encode()).hexdigest()
    path = paths.CACHE / f"hard-{key[:16]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with open(temporary, "wb") as file:
            np.save(file, wrong(load(), wnids).numpy())
        os.replace(temporary, path)
    return torch.from_numpy(np.load(path))
