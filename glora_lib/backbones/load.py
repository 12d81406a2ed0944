"""Backbones by name: what packages ship, any timm architecture, and files of weights such as a local ViT-B_16.npz."""

import torch
from torch import nn

from glora_lib.backbones import efficientnet, packaged
from glora_lib.backbones.efficientnet import EFFICIENTNET, EFFICIENTNET_LABEL
from glora_lib.backbones.files import BackboneError, find, sha256
from glora_lib.backbones.packaged import PACKAGED, PACKAGED_LABEL


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
        name: `PACKAGED`, `EFFICIENTNET`, or a timm architecture.
        weights: "" for the weights that the package ships, "random" for none, or the name of a file of weights in the
            GLORA_DATA_DIR folder (`ViT-B_16.npz`) or anywhere else. A timm name is never looked up on a download hub.
        drop_path: stochastic depth while training.
        seed: fixes the head and whatever else is random.

    Raises BackboneError for a file or package that is missing or whose checksum is wrong, ValueError for an unknown name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == PACKAGED:
            return packaged.create(classes, image_size or 98, drop_path)
        if name == EFFICIENTNET:
            return efficientnet.create(classes)
        import timm  # slow to import, and the rest of the library does without

        if not timm.is_model(name):
            similar = timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]
            raise ValueError(
                f"unknown backbone {name!r}; valid: {PACKAGED!r}, {EFFICIENTNET!r} and every timm model, such as {similar}"
            )
        fixed = getattr(timm.get_pretrained_cfg(name, allow_unregistered=True), "fixed_input_size", True)  # ConvNets take any
        size = {} if image_size is None or not fixed else {"img_size": image_size}
        if weights == "random":
            return timm.create_model(name, num_classes=classes, drop_path_rate=drop_path, **size)
        return _from_file(name, classes, drop_path, size, weights)


def weights_sha256(name: str, weights: str = "") -> str:
    """Return the SHA-256 of the file that `load_backbone` reads with these arguments, or "random"."""
    if weights == "random":
        return "random"
    shipped = {PACKAGED: packaged.file, EFFICIENTNET: efficientnet.FILE.path}
    return sha256(shipped[name]() if name in shipped else find(weights))


def label(name: str, weights: str = "") -> str:
    """Return what tables call this backbone: never more than it is."""
    shipped = {PACKAGED: PACKAGED_LABEL, EFFICIENTNET: EFFICIENTNET_LABEL}
    return shipped.get(name) or f"{name}, {'random weights' if weights == 'random' else weights}"


def _from_file(name: str, classes: int, drop_path: float, size: dict, weights: str) -> nn.Module:
    """A timm architecture with a local file; .npz files in the layout of the original ViT release included."""
    import timm

    path = find(weights)
    model = timm.create_model(name, pretrained=False, num_classes=classes, drop_path_rate=drop_path, **size)
    try:
        found = timm.models.load_checkpoint(model, str(path), strict=path.suffix == ".npz")
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(f"{path.name} does not fit {name!r}: {reason}") from error
    head = model.pretrained_cfg.get("classifier") or "head"  # may be missing: it is fresh
    missing = [key for key in getattr(found, "missing_keys", ()) if not key.startswith(head)]  # an .npz reports none
    if missing:
        raise BackboneError(f"{path.name} does not fit {name!r}: it lacks {len(missing)} tensors, such as {missing[0]}")
    return model
