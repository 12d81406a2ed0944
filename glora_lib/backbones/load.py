"""Backbones by name: what packages ship, any timm architecture, and files of weights such as a local ViT-B_16.npz."""

import difflib

import torch
from torch import nn

from glora_lib.backbones import efficientnet, packaged
from glora_lib.backbones.architecture import create
from glora_lib.backbones.efficientnet import EFFICIENTNET, EFFICIENTNET_LABEL
from glora_lib.backbones.files import find, sha256
from glora_lib.backbones.packaged import PACKAGED, PACKAGED_LABEL
from glora_lib.backbones.weights import from_file, from_hub


def load_backbone(
    name: str = PACKAGED,
    *,
    classes: int,
    image_size: int | None = None,
    weights: str = "",
    drop_path: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Return a backbone with a fresh head of `classes` outputs, for square images of `image_size` pixels.

    Args:
        name: `PACKAGED`, `EFFICIENTNET`, or a timm architecture of any kind.
        weights: "" for the weights that the package ships, "random" for none, or the name of a file of weights (.pth,
            .safetensors, .npz) in the GLORA_DATA_DIR folder (`ViT-B_16.npz`) or anywhere else; "hub" asks timm for its own,
            which it downloads. Only then is a download hub asked. A file's head is taken if it has as many outputs. `PACKAGED`
            and `EFFICIENTNET` have "" alone.
        drop_path: stochastic depth while training.
        seed: fixes the head and whatever else is random.

    Raises BackboneError for a file or package that is missing, does not fit, or whose checksum is wrong, and for images that
    the architecture cannot take; ValueError for an unknown name and for a size of which patches leave out a part.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes must be an integer of at least 1, not {classes!r}")
    if name in (PACKAGED, EFFICIENTNET) and weights:
        raise ValueError(
            f"{name!r} has the weights of its package and takes no others; got weights={weights!r}: leave them out, or name a "
            "timm architecture"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == PACKAGED:
            return packaged.create(classes, image_size or 98, drop_path)
        if name == EFFICIENTNET:
            return efficientnet.create(classes)
        import timm  # slow to import, and the rest of the library does without

        if not timm.is_model(name):
            similar = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=5)
            raise ValueError(
                f"unknown backbone {name!r}; valid: {PACKAGED!r}, {EFFICIENTNET!r} and every timm model, such as {similar}"
            )
        model = create(name, classes, image_size, drop_path, seed)
        if weights == "random":
            return model
        return from_hub(model, name) if weights == "hub" else from_file(model, name, find(weights))


def weights_sha256(name: str, weights: str = "") -> str:
    """Return the SHA-256 of the file that `load_backbone` reads with these arguments, or "random", or "hub"."""
    if weights in ("random", "hub"):
        return weights
    if name == PACKAGED:
        return packaged.checksum()
    return sha256(efficientnet.FILE.path() if name == EFFICIENTNET else find(weights))


def label(name: str, weights: str = "") -> str:
    """Return what tables call this backbone: never more than it is."""
    shipped = {PACKAGED: PACKAGED_LABEL, EFFICIENTNET: EFFICIENTNET_LABEL}
    return shipped.get(name) or f"{name}, {'random weights' if weights == 'random' else weights}"
