"""What of a model belongs to its adapter, and what to the backbone, and which backbone that is."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from glora_lib.glora.fusable import Fusable
from glora_lib.glora.layer import SUPPORT
from glora_lib.training.wrappers import plain_name, unwrapped


def fingerprint(net: nn.Module, buffers: Mapping[str, Tensor] | None = None) -> str:
    """Return the SHA-256 of the frozen parameters and buffers, names and shapes included: which backbone this is.

    Names are those inside the adapted model, without DataParallel or `torch.compile`. Buffers that training moves are not the
    backbone's. A model that is trained whole has no backbone: all of those are alike.

    Args:
        buffers: values that count in place of the model's own, by name.
    """
    own = {name: (buffers or {}).get(name, buffer) for name, buffer in buffers_of(net).items()}
    return _digest(frozen(net) | own)


def inside(net: nn.Module) -> nn.Module:
    """Return the model in a wrapper of ours (GLoRA's, NOAH's) and in torch's; other methods have none."""
    net = unwrapped(net)
    return unwrapped(net.model) if isinstance(net, Fusable) and isinstance(getattr(net, "model", None), nn.Module) else net


def layers_of(net: nn.Module) -> dict[str, nn.Module]:
    """Return GLoRA's layers by their names in the plain model; nothing for other methods."""
    return {plain_name(net.model, name): net.layer(name) for name in getattr(net, "layer_names", ())}


def support_of(net: nn.Module) -> dict[str, Tensor]:
    """Return the whole storage of GLoRA's support tensors by name; nothing for other methods."""
    layers = layers_of(net).items()
    return {f"{name}.{part}": getattr(layer, part) for name, layer in layers for part in SUPPORT if hasattr(layer, part)}


def in_use(net: nn.Module) -> dict[str, Tensor]:
    """Return those slices of the storage that GLoRA's configuration needs; nothing for other methods."""
    return {f"{name}.{part}": tensor for name, layer in layers_of(net).items() for part, tensor in layer.stored().items()}


def trained_whole(net: nn.Module) -> dict[str, Tensor]:
    """Return what else training moves: parameters that are trained whole, shared ones once, such as the head's, and buffers."""
    support, wrapper = {id(tensor) for tensor in support_of(net).values()}, inside(net) is not net
    found = {name: p for name, p in net.named_parameters() if p.requires_grad and id(p) not in support} | moved(net)
    found = {plain_name(net, name): tensor for name, tensor in found.items()}
    return {name.removeprefix("model.") if wrapper else name: tensor for name, tensor in found.items()}


def moved(net: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that training may move, by name: running statistics, and all of a module that is trained itself."""
    moved = {}
    for name, module in net.named_modules():
        if isinstance(module, _NormBase) or any(p is not None and p.requires_grad for p in module._parameters.values()):
            buffers = {key: b for key, b in module._buffers.items() if b is not None}
            kept = {key: b for key, b in buffers.items() if key not in module._non_persistent_buffers_set}
            moved |= {f"{name}.{key}" if name else key: buffer for key, buffer in kept.items()}
    return moved


def frozen(net: nn.Module) -> dict[str, Tensor]:
    """Return all else, by the names inside the plain model."""
    inner = inside(net)
    support = {id(getattr(m, part, None)) for m in inner.modules() if isinstance(m, Fusable) for part in SUPPORT}
    buffers = {id(buffer) for buffer in moved(inner).values()}
    return {
        plain_name(inner, name): tensor
        for name, tensor in inner.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor) and not tensor.requires_grad and id(tensor) not in support | buffers
    }


def buffers_of(net: nn.Module) -> dict[str, Tensor]:
    """Return the buffers among them: nobody trains them, but whoever calls the model may count or cache in them.

    Without masks, which have an infinity.
    """
    buffers = {name: tensor for name, tensor in frozen(net).items() if not isinstance(tensor, nn.Parameter)}
    return {name: buffer for name, buffer in buffers.items() if buffer.isfinite().all()}


def values_sha256(net: nn.Module) -> str:
    """Return a SHA-256 of the frozen numbers, whatever they are called."""
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(raw_bytes(t)).digest() for t in frozen(net).values()))).hexdigest()


def dtypes(net: nn.Module) -> list[str]:
    return sorted({str(tensor.dtype) for tensor in frozen(net).values()})


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor):
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
