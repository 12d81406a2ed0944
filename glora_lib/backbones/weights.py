"""Weights of a timm architecture: out of a local file, in any form that timm reads, or from timm's own hub."""

import inspect
import math
import pickle
import sys
from pathlib import Path

import torch
from torch import nn

from glora_lib.backbones.files import BackboneError
from glora_lib.training.head import head_of

HEADS = ("head", "head_dist", "fc", "classifier", "pre_logits")  # what a file may have that a model of other classes has not


def from_file(model: nn.Module, name: str, path: Path) -> nn.Module:
    """Return the model with the weights of a file: .npz of the original ViT release, .safetensors, .pth and the like.

    Position embeddings are resampled to the model's images, and a head of another width is left out. Wrappers' prefixes and the
    usual dictionaries around the tensors are known. Raises BackboneError for a file that does not fit in any other way.
    """
    refuse_pages(path)
    try:
        if path.suffix == ".npz":
            model.load_pretrained(str(path))
            return model
        state = _state(path, model)
        wrong = _fill(model, state)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        if "Unsupported global" in reason:
            reason = "it holds more than tensors, a whole model perhaps; save its state_dict() alone"
        elif "weights_only" in reason or isinstance(error, EOFError | KeyError | pickle.UnpicklingError):
            reason = "it is damaged, or no file of weights"
        elif "size mismatch" in reason:
            reason += "; this architecture has no conversion to images of another size"
        raise BackboneError(f"{path.name} does not fit {name!r}: {reason}") from error
    if wrong:
        raise BackboneError(f"{path.name} does not fit {name!r}: {wrong}")
    return model


def from_hub(model: nn.Module, name: str) -> nn.Module:
    """Return the model with the weights that timm downloads for this name. Raises BackboneError where it cannot."""
    import timm

    try:
        classes = timm.models.get_pretrained_cfg(name).num_classes
        state = timm.create_model(name, pretrained=True, num_classes=classes).state_dict()
        wrong = _fill(model, _filtered(state, model))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"timm's hub gave no weights for {name!r} ({reason}); name a file instead") from error
    if wrong:
        raise BackboneError(f"the weights of timm's hub do not fit {name!r}: {wrong}")
    return model


def refuse_pages(path: Path) -> None:
    """Raise a BackboneError for what a failed download leaves: a web page, or a pointer of git-lfs."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BackboneError(f"{path.name} is a web page, not weights; download it again in a browser and look at what it says")
    if start.startswith(b"version https://git-lfs"):
        raise BackboneError(f"{path.name} is a pointer of git-lfs, not weights; fetch the file itself: git lfs pull")


def _state(path: Path, model: nn.Module) -> dict[str, torch.Tensor]:
    from timm.models import load_state_dict

    state = load_state_dict(str(path))
    if not isinstance(state, dict) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError("it holds no tensors by name")
    return _filtered(state, model)


def _filtered(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors as timm converts them for this model: older names, and the size of its images."""
    module = sys.modules[type(model).__module__]
    convert = getattr(module, "checkpoint_filter_fn", getattr(module, "_filter_fn", None))
    if convert is not None:
        state = convert(state, model) if "model" in inspect.signature(convert).parameters else convert(state)
    own = dict(model.named_parameters())
    return {
        name: _resampled(t, own[name], model) if name.endswith("pos_embed") and name in own else t for name, t in state.items()
    }


def _resampled(embedding: torch.Tensor, own: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Return position embeddings (1, prefix + tokens, d) for the model's own number of tokens, where both are of squares."""
    from timm.layers import resample_abs_pos_embed

    if embedding.ndim != 3 or own.ndim != 3 or embedding.shape == own.shape or embedding.shape[::2] != own.shape[::2]:
        return embedding
    for prefix in (getattr(model, "num_prefix_tokens", 0), 0):  # a class token that joins later has no position
        there, here = (math.isqrt(max(0, part.shape[1] - prefix)) for part in (embedding, own))
        if there**2 + prefix == embedding.shape[1] and here**2 + prefix == own.shape[1]:
            return resample_abs_pos_embed(embedding, [here, here], num_prefix_tokens=prefix)
    return embedding


def _fill(model: nn.Module, state: dict[str, torch.Tensor]) -> str:
    """Load the tensors, the head's only if all of them fit; return what is wrong with them, "" for nothing.

    Raises ValueError, and loads nothing, for numbers that are not finite.
    """
    broken = [
        key for key, t in state.items() if isinstance(t, torch.Tensor) and t.is_floating_point() and not t.isfinite().all()
    ]
    if broken:
        raise ValueError(f"{broken[0]} has NaN or infinity, such as a training that failed leaves")
    own = model.state_dict()
    heads = tuple(f"{name}." for name in head_of(model))
    of_heads = [key for key in own if key.startswith(heads)] if heads else []
    if any(key not in state or state[key].shape != own[key].shape for key in of_heads):
        state = {key: tensor for key, tensor in state.items() if key not in of_heads}
    missing, unexpected = model.load_state_dict(state, strict=False)
    # files of before BatchNorm counted its batches lack the numbers
    missing = [key for key in missing if key not in of_heads and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in unexpected if key.split(".")[0] not in HEADS]
    parts = [("it lacks", missing), ("the model lacks", unexpected)]
    return "; ".join(f"{who} {len(keys)} tensors, such as {keys[0]}" for who, keys in parts if keys)
