"""Adapters on disk: the trained tensors as .safetensors, and beside it a .json that says what they belong to.

A file holds either a whole supernet or, smaller, just what one configuration needs. Nothing is loaded into a model before all
of it was checked: the checksum, the backbone, names and shapes, and that every number is finite.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glora_lib.model import AdaptedModel
from glora_lib.space import Choice, from_json, to_json

SUPPORT = ("Ad", "Au", "Bd", "Bu", "Cd", "Cu", "D", "E")


class AdapterError(ValueError):
    """An adapter file that cannot be used, and why."""


def save_adapter(net: AdaptedModel, path: str | Path, *, backbone: str, whole: bool = False) -> Path:
    """Write `path` (.safetensors) and its .json; return the path.

    By default only the subnet in use is written, and the head; `whole=True` writes every support tensor. `backbone` is the name
    that errors give to what the adapter belongs to.
    Raises AdapterError when a tensor is not finite: a broken adapter is not saved.
    """
    path = Path(path).with_suffix(".safetensors")
    tensors = {}
    for name in net.layer_names:
        layer = net.layer(name)
        parts = {part: getattr(layer, part) for part in SUPPORT} if whole else layer.stored()
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    tensors |= dict(_whole_parameters(net))
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    _check_finite(tensors, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    description = {
        "backbone": backbone,
        "backbone_sha256": fingerprint(net),
        "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
        "rank": net.layer(net.layer_names[0]).rank,
        "scale_broadcast": net.layer(net.layer_names[0]).scale_broadcast,
        "whole": whole,
        "config": to_json(net.config),
    }
    os.replace(temporary, path)
    temporary.write_text(json.dumps(description, indent=1))
    os.replace(temporary, path.with_suffix(".json"))
    return path


def load_adapter(net: AdaptedModel, path: str | Path) -> dict[str, Choice]:
    """Load an adapter into `net`, choose its configuration, and return that.

    Raises AdapterError, and leaves `net` as it was, for a file that is missing, truncated or edited, that was made for another
    backbone, rank or shape, or that holds a number that is not finite.
    """
    path = Path(path).with_suffix(".safetensors")
    description = _describe(path)
    expected = {"backbone_sha256": fingerprint(net), "scale_broadcast": net.layer(net.layer_names[0]).scale_broadcast}
    if description["backbone_sha256"] != expected["backbone_sha256"]:
        raise AdapterError(
            f"{path.name} belongs to the backbone {description['backbone']!r} with weights "
            f"{description['backbone_sha256'][:12]}, this model's are {expected['backbone_sha256'][:12]}; load that backbone"
        )
    if description["scale_broadcast"] != expected["scale_broadcast"]:
        raise AdapterError(f"{path.name} was trained with scale_broadcast={description['scale_broadcast']}; adapt the model so")
    tensors = load_file(path)
    _check_finite(tensors, path)
    targets = {f"{name}.{part}": getattr(net.layer(name), part) for name in net.layer_names for part in SUPPORT}
    targets |= dict(_whole_parameters(net))
    _check_shapes(tensors, targets, path)
    before = net.config
    try:
        config = from_json(description["config"])
        net.use(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise AdapterError(f"{path.stem}.json holds a configuration that this model cannot use: {error}") from error
    needed = {f"{name}.{part}": tensor for name in net.layer_names for part, tensor in net.layer(name).stored().items()}
    needed |= dict(_whole_parameters(net))
    short = [name for name, tensor in needed.items() if name not in tensors or not _covers(tensors[name], tensor)]
    if short:
        net.use(before)
        raise AdapterError(
            f"{path.name} lacks {len(short)} tensors that its configuration needs, such as {short[0]}; restore it"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.zero_()
            if name in tensors:
                tensor = tensors[name]
                target[tuple(slice(0, length) for length in tensor.shape)].copy_(tensor)
    return config


def fingerprint(net: AdaptedModel) -> str:
    """Return the SHA-256 of the frozen parameters and buffers, names and shapes included: which backbone this is."""
    digest = hashlib.sha256()
    trained = {name for name, parameter in net.model.named_parameters() if parameter.requires_grad}
    for name, tensor in net.model.state_dict().items():
        if name not in trained and name.rpartition(".")[2] not in SUPPORT:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _whole_parameters(net: AdaptedModel) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are trained whole, such as the head's: trained, but no support tensor."""
    support = {id(getattr(net.layer(name), part)) for name in net.layer_names for part in SUPPORT}
    return [(name, p) for name, p in net.model.named_parameters() if p.requires_grad and id(p) not in support]


def _describe(path: Path) -> dict:
    """Return the JSON beside the tensors after checking it against the file."""
    try:
        description = json.loads(path.with_suffix(".json").read_text())
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise AdapterError(f"an adapter is two files, {path.name} and {path.stem}.json; missing: {error.filename}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path.stem}.json is not valid JSON ({error}); restore it or train the adapter again") from error
    keys = set(description) if isinstance(description, dict) else set()
    missing = {"backbone", "backbone_sha256", "sha256", "config", "scale_broadcast"} - keys
    if missing:
        raise AdapterError(f"{path.stem}.json lacks {sorted(missing)}; restore it or train the adapter again")
    if found != description["sha256"]:
        raise AdapterError(
            f"{path.name} was truncated or edited: its SHA-256 is {found[:12]}, its .json expects "
            f"{description['sha256'][:12]}; restore it or train the adapter again"
        )
    return description


def _check_finite(tensors: dict[str, Tensor], path: Path) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise AdapterError(f"{path.name} has {len(broken)} tensors with NaN or infinity, such as {broken[0]}; train it again")


def _check_shapes(tensors: dict[str, Tensor], targets: dict[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if name not in targets:
            raise AdapterError(f"{path.name} holds {name!r}, which this model does not have")
        want, have = tuple(targets[name].shape), tuple(tensor.shape)
        is_support = name.rpartition(".")[2] in SUPPORT
        fits = len(want) == len(have) and all(h <= w if is_support else h == w for h, w in zip(have, want, strict=True))
        if not fits:
            raise AdapterError(f"{path.name}: {name} has shape {have}, this model needs {want}; adapt it with the same rank")


def _covers(stored: Tensor, needed: Tensor) -> bool:
    return all(have >= want for have, want in zip(stored.shape, needed.shape, strict=True))
