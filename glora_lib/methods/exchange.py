"""What exchanging adapters with other libraries shares: errors that list what cannot be expressed, and the forms of changes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

PREFIX = "base_model.model."  # of names in peft's files


class ExchangeError(ValueError):
    """An adapter that the other form cannot express as it is; `reasons` lists what and why. Nothing was written or changed."""

    def __init__(self, what: str, reasons: Sequence[str]):
        self.reasons = list(reasons)
        shown = "; ".join(self.reasons[:8]) + (f"; and {len(self.reasons) - 8} more" if len(self.reasons) > 8 else "")
        super().__init__(f"{what}: {shown}")


def fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copy tensors into the model's parameters and buffers of these names, train those parameters; return the other names."""
    own, unknown = dict(model.named_parameters()) | dict(model.named_buffers()), []
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name not in own or own[name].shape != tensor.shape:
                unknown.append(name)
                continue
            own[name].copy_(tensor)
            own[name].requires_grad_(isinstance(own[name], nn.Parameter))
    return unknown


def loha(parts: Mapping[str, Tensor]) -> Tensor:
    """Return LoHa's change before its scale: the elementwise product of two matrices of low rank."""
    return (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])


def lokr(parts: Mapping[str, Tensor]) -> Tensor:
    """Return LoKr's change before its scale: the Kronecker product of two matrices, each whole or of low rank."""
    first, second = (
        parts[f"lokr_{w}"] if f"lokr_{w}" in parts else parts[f"lokr_{w}_a"] @ parts[f"lokr_{w}_b"] for w in ("w1", "w2")
    )
    for _ in range(second.ndim - first.ndim):
        first = first[..., None]
    return torch.kron(first, second)
