"""Adapters on disk: the trained tensors as .safetensors, and beside it a .json that says what they belong to.

A file holds what a method trained, the head included; for GLoRA either the whole supernet or, smaller, just what one
configuration needs. Nothing is loaded into a model before all of it was checked: the checksum, the backbone, names and shapes,
and that every number is finite.
"""

import copy
import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Choice, from_json, to_json
from glora_lib.methods import METHODS

SUPPORT = ("Ad", "Au", "Bd", "Bu", "Cd", "Cu", "D", "E")
FIELDS = {"backbone", "backbone_sha256", "sha256", "method", "options", "config"}


class AdapterError(ValueError):
    """An adapter file that cannot be used, and why."""


def save_adapter(
    net: nn.Module, path: str | Path, *, backbone: str, method: str = "glora", options: dict | None = None, whole: bool = False
) -> Path:
    """Write `path` (.safetensors) and its .json; return the path.

    Args:
        net: an adapted model. Of GLoRA's only the subnet in use is written, and the head; `whole=True` writes every support
            tensor. Of other methods' every trained parameter is.
        backbone: the name that errors give to what the adapter belongs to.
        method: a name in `METHODS`, and `options` the keyword arguments that it was called with, as JSON can hold them. For
            GLoRA both are known.

    Raises AdapterError when a tensor is not finite (a broken adapter is not saved), and for an unknown method.
    """
    path = Path(path).with_suffix(".safetensors")
    if method not in METHODS or (method == "glora") != isinstance(net, AdaptedModel):
        raise AdapterError(f"method {method!r} is not what made this {type(net).__name__}; valid: {', '.join(METHODS)}")
    config, tensors = getattr(net, "config", None), {}
    if isinstance(net, AdaptedModel):
        layer = net.layer(net.layer_names[0])
        config, options = to_json(net.config), {"rank": layer.rank, "scale_broadcast": layer.scale_broadcast}
        tensors = _support(net) if whole else _in_use(net)
    tensors = {name: p.detach().cpu().contiguous().clone() for name, p in (tensors | _whole_parameters(net)).items()}
    _check_finite(tensors, path)
    description = {
        "backbone": backbone,
        "backbone_sha256": fingerprint(net),
        "method": method,
        "options": options or {},
        "whole": whole,
        "config": config,
    }
    json.dumps(description)  # raises for options that JSON cannot hold, before anything is written
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    description["sha256"] = hashlib.sha256(temporary.read_bytes()).hexdigest()
    os.replace(temporary, path)
    temporary.write_text(json.dumps(description, indent=1))
    os.replace(temporary, path.with_suffix(".json"))
    return path


def restore(model: nn.Module, path: str | Path) -> nn.Module:
    """Return a copy of a plain model that is adapted as the file says, by any of `METHODS`, with its tensors.

    Raises AdapterError as `load_adapter`. The model itself stays as it was.
    """
    path = Path(path).with_suffix(".safetensors")
    description = _describe(path)
    method, options = description["method"], description["options"]
    try:
        net = METHODS[method](copy.deepcopy(model), **options)
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            f"{path.stem}.json names the method {method!r} with {options}, which this model cannot have: {error}"
        ) from error
    _load(net, path, description)
    return net.eval()


def load_adapter(net: AdaptedModel, path: str | Path) -> dict[str, Choice]:
    """Load an adapter into `net`, which GLoRA adapted, choose its configuration, and return that.

    For other methods, whose options do not all show in their tensors, see `restore`.
    Raises AdapterError, and leaves `net` as it was, for a file that is missing, truncated or edited, that was made for another
    backbone, method, rank or shape, or that holds a number that is not finite.
    """
    path = Path(path).with_suffix(".safetensors")
    description = _describe(path)
    scaled = net.layer(net.layer_names[0]).scale_broadcast
    if description["method"] != "glora":
        raise AdapterError(f"{path.name} was trained by {description['method']!r}, not by GLoRA; `restore` it")
    if description["options"].get("scale_broadcast") != scaled:
        raise AdapterError(f"{path.name} was trained with scale_broadcast={not scaled}; adapt the model so")
    _load(net, path, description)
    return net.config


def fingerprint(net: nn.Module) -> str:
    """Return the SHA-256 of the frozen parameters and buffers, names and shapes included: which backbone this is.

    Names are those inside the adapted model. A model that is trained whole has no backbone: all of those are alike.
    """
    digest, inner = hashlib.sha256(), _inside(net)
    trained = {name for name, p in inner.named_parameters(remove_duplicate=False) if p.requires_grad}
    for name, tensor in inner.state_dict().items():
        if name not in trained and name.rpartition(".")[2] not in SUPPORT:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _load(net: nn.Module, path: Path, description: dict) -> None:
    """Fill the trained parameters of `net` from a file, and choose its configuration, after all checks."""
    found = fingerprint(net)
    if description["backbone_sha256"] != found:
        raise AdapterError(
            f"{path.name} belongs to the backbone {description['backbone']!r} with weights "
            f"{description['backbone_sha256'][:12]}, this model's are {found[:12]}; load that backbone"
        )
    tensors = load_file(path)
    _check_finite(tensors, path)
    whole = _whole_parameters(net)
    targets = _support(net) | whole
    _check_shapes(tensors, targets, path)
    before = getattr(net, "config", None)
    if before is not None:
        try:
            net.use(from_json(description["config"]) if isinstance(net, AdaptedModel) else description["config"])
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise AdapterError(f"{path.stem}.json holds a configuration that this model cannot use: {error}") from error
    needed = _in_use(net) | whole
    short = [name for name, tensor in needed.items() if name not in tensors or not _covers(tensors[name], tensor)]
    if short:
        if before is not None:
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


def _inside(net: nn.Module) -> nn.Module:
    """Return the model in the wrapper of GLoRA, NOAH and SuperLoRA; other methods have none."""
    return getattr(net, "model", net)


def _support(net: nn.Module) -> dict[str, Tensor]:
    """Return the whole storage of GLoRA's support tensors by name; nothing for other methods."""
    names = getattr(net, "layer_names", ())
    return {f"{name}.{part}": getattr(net.layer(name), part) for name in names for part in SUPPORT}


def _in_use(net: nn.Module) -> dict[str, Tensor]:
    """Return those slices of the storage that GLoRA's configuration needs; nothing for other methods."""
    names = getattr(net, "layer_names", ())
    return {f"{name}.{part}": tensor for name in names for part, tensor in net.layer(name).stored().items()}


def _whole_parameters(net: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that are trained whole, such as the head's: trained, but no support tensor. Shared ones once."""
    support = {id(tensor) for tensor in _support(net).values()}
    beside = {name: p for name, p in net.named_parameters() if not name.startswith("model.")}  # SuperLoRA's groups
    named = dict(_inside(net).named_parameters()) | beside
    return {name: p for name, p in named.items() if p.requires_grad and id(p) not in support}


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
    missing = FIELDS - keys | ({"options"} if keys and not isinstance(description.get("options"), dict) else set())
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
