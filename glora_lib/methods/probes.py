"""What needs no new parameters: the linear probe, full fine-tuning, and BitFit."""

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from glora_lib.glora.plain import refuse_adapted
from glora_lib.methods.vit import freeze
from glora_lib.training.head import head_parameters


def linear(model: nn.Module) -> nn.Module:
    """Train the head of a timm model alone; return the model. A model without a head is a ValueError."""
    return freeze(model)


def full(model: nn.Module) -> nn.Module:
    """Leave every parameter of the model trainable; return the model."""
    refuse_adapted(model)
    return model.requires_grad_(True)


def bitfit(model: nn.Module) -> nn.Module:
    """Train the biases and the head: those of linear layers, of the patch embedding and of norms (Ben Zaken et al., 2022).

    A model without a head, and one without a bias outside it, is a ValueError.
    """
    head = head_parameters(model)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias") and name not in head]
    if not biases:
        raise ValueError(f"{type(model).__name__} has no bias that BitFit could train")
    freeze(model)
    for bias in biases:
        bias.requires_grad_(True)
    return model


@torch.no_grad()
def features(model: nn.Module, data: Dataset, batch_size: int = 250) -> TensorDataset:
    """Return what the head of a timm model sees, (N, width) float32, and the labels.

    A linear probe on these is the same as training the head behind a frozen backbone, without computing it again every epoch.
    """
    place = next(model.parameters()).device
    model.eval()
    batches = [data[list(range(start, min(start + batch_size, len(data))))] for start in range(0, len(data), batch_size)]
    rows = [model.forward_head(model.forward_features(images.to(place)), pre_logits=True) for images, _ in batches]
    return TensorDataset(torch.cat(rows), torch.cat([labels for _, labels in batches]))
