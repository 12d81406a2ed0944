"""Adapters on disk: what a trained model writes to a file (`adapter_format`), and loads from one.

A file holds what a method trained, the head included; for GLoRA either the whole supernet or, smaller, just what one
configuration needs. Buffers come along, such as running statistics, since training may move them. Nothing is loaded into a
model before all of it was checked: the checksum, the backbone, names and shapes, and that every number is finite.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Choice, from_json, to_json
from glora_lib.methods import METHODS
from glora_lib.methods.adapter_format import AdapterError, file_of, read, write
from glora_lib.methods.belonging import buffers_of, dtypes, fingerprint, in_use, support_of, trained_whole, values_sha256
from glora_lib.training.wrappers import plain_name, unwrapped


def save_adapter(
    net: nn.Module, path: str | Path, *, backbone: str, method: str = "glora", options: dict | None = None, whole: bool = False
) -> Path:
    """Write an adapter to `path`, to which .safetensors is added where it is missing; return the path.

    The file is written whole or not at all: what was there stays until the new one is complete.

    Args:
        net: an adapted model. Of GLoRA's only the subnet in use is written, and the head; `whole=True` writes every support
            tensor. Of other methods' every trained parameter is.
        backbone: the name that errors give to what the adapter belongs to.
        method: a name in `METHODS`, and `options` the keyword arguments that it was called with, as JSON can hold them. For
            GLoRA both are known.

    Raises AdapterError when a tensor is not finite (a broken adapter is not saved), and for an unknown method.
    """
    net, path = unwrapped(net), file_of(path)
    if method not in METHODS or (method == "glora") != isinstance(net, AdaptedModel):
        raise AdapterError(f"method {method!r} is not what made this {type(net).__name__}; valid: {', '.join(METHODS)}")
    config, tensors = getattr(net, "config", None), {}
    if isinstance(net, AdaptedModel):
        config = {plain_name(net.model, name): choice for name, choice in to_json(net.config).items()}
        options, tensors = net.options, support_of(net) if whole else in_use(net)
    tensors |= buffers_of(net) | trained_whole(net)
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    _check_finite(tensors, path)
    description = {
        "backbone": backbone,
        "backbone_sha256": fingerprint(net),
        "backbone_values_sha256": values_sha256(net),
        "backbone_dtypes": dtypes(net),
        "method": method,
        "options": options or {},
        "whole": whole,
        "config": config,
    }
    write(path, tensors, description)
    return path


def restore(model: nn.Module, path: str | Path) -> nn.Module:
    """Return a copy of a plain model that is adapted as the file says, by any of `METHODS`, with its tensors.

    Raises AdapterError as `load_adapter`. The model itself stays as it was.
    """
    path = file_of(path)
    description, tensors = read(path)
    method, options = description["method"], description["options"]
    try:
        net = METHODS[method](copy.deepcopy(model), **options)
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            f"{path.name} names the method {method!r} with {options}, which this model cannot have: {error}"
        ) from error
    _load(net, path, description, tensors)
    return net.eval()


def load_adapter(net: AdaptedModel, path: str | Path) -> dict[str, Choice]:
    """Load an adapter into `net`, which GLoRA adapted, choose its configuration, and return that.

    For other methods, whose options do not all show in their tensors, see `restore`.
    Raises AdapterError, and leaves `net` as it was, for a file that is missing, truncated or edited, that was made for another
    backbone, method, rank or shape, or that holds a number that is not finite.
    """
    net, path = unwrapped(net), file_of(path)
    description, tensors = read(path)
    scaled = net.options.get("scale_broadcast", False)
    if description["method"] != "glora":
        raise AdapterError(f"{path.name} was trained by {description['method']!r}, not by GLoRA; `restore` it")
    if description["options"].get("scale_broadcast") != scaled:
        raise AdapterError(f"{path.name} was trained with scale_broadcast={not scaled}; adapt the model so")
    _load(net, path, description, tensors)
    return net.config


def _load(net: nn.Module, path: Path, description: dict, tensors: dict[str, Tensor]) -> None:
    """Fill the trained parameters of `net` from a file, and choose its configuration, after all checks."""
    _check_backbone(net, path, description, tensors)
    _check_finite(tensors, path)
    support, whole, buffers = support_of(net), trained_whole(net), buffers_of(net)
    _check_shapes(tensors, support, whole | buffers, path)
    before = getattr(net, "config", None)
    if before is not None:
        try:
            net.use(_config(net, description["config"]))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise AdapterError(f"{path.name} holds a configuration that this model cannot use: {error}") from error
    needed = in_use(net) | whole
    short = [name for name, tensor in needed.items() if name not in tensors or not _covers(tensors[name], tensor)]
    if short:
        if before is not None:
            net.use(before)
        raise AdapterError(
            f"{path.name} lacks {len(short)} tensors that its configuration needs, such as {short[0]}; restore it"
        )
    with torch.no_grad():
        for name, target in (support | whole).items():
            target.zero_()
            if name in tensors:
                target[tuple(slice(0, length) for length in tensors[name].shape)].copy_(tensors[name])
        for name in buffers.keys() & tensors.keys():
            buffers[name].copy_(tensors[name])


def _config(net: nn.Module, config):
    """Return a file's configuration with the layers' names in this model, which may stand in wrappers."""
    if not isinstance(net, AdaptedModel):
        return config
    names = {plain_name(net.model, name): name for name in net.layer_names}
    return {names.get(name, name): choice for name, choice in from_json(config).items()}


def _check_backbone(net: nn.Module, path: Path, description: dict, tensors: dict[str, Tensor]) -> None:
    found, wanted = fingerprint(net), str(description["backbone_sha256"])
    if wanted in (found, fingerprint(net, tensors)):  # calling the model may have moved buffers, which are in the file
        return
    mend = "load that backbone"
    if description.get("backbone_values_sha256") == values_sha256(net):
        mend = "the numbers are the same under other names: hand over the model as it was when the adapter was made"
    elif description.get("backbone_dtypes", dtypes(net)) != dtypes(net):
        mend = f"it is in {', '.join(dtypes(net))} and was in {', '.join(description['backbone_dtypes'])}; convert it first"
    raise AdapterError(
        f"{path.name} belongs to the backbone {description['backbone']!r} with weights {wanted[:12]}, this model's are "
        f"{found[:12]}; {mend}"
    )


def _check_finite(tensors: dict[str, Tensor], path: Path) -> None:
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise AdapterError(f"{path.name} has {len(broken)} tensors with NaN or infinity, such as {broken[0]}; train it again")


def _check_shapes(tensors: dict[str, Tensor], support: dict[str, Tensor], whole: dict[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if name not in support and name not in whole:
            raise AdapterError(f"{path.name} holds {name!r}, which this model does not have")
        want, have = tuple((support | whole)[name].shape), tuple(tensor.shape)
        same_form = len(want) == len(have)
        fits = have == want or (name in support and same_form and all(h <= w for h, w in zip(have, want, strict=True)))
        if not fits:
            mend = (
                "adapt it with the same rank" if name in support else "give it the same number of classes, or the same options"
            )
            raise AdapterError(f"{path.name}: {name} has shape {have}, this model needs {want}; {mend}")


def _covers(stored: Tensor, needed: Tensor) -> bool:
    return stored.ndim == needed.ndim and all(have >= want for have, want in zip(stored.shape, needed.shape, strict=True))
