"""GLoRA under the common name: the supernet, whose configurations are sampled in training and searched afterwards."""

from collections.abc import Collection

from torch import nn

from glora_lib.glora.adapt import adapt
from glora_lib.glora.model import AdaptedModel


def glora(
    model: nn.Module, rank: int = 8, scale_broadcast: bool = False, layers: Collection[str] = ("linear",), **options
) -> AdaptedModel:
    """Return the model with a GLoRA layer in place of every layer of the kinds; all options as for `adapt`."""
    return adapt(model, rank=rank, scale_broadcast=scale_broadcast, layers=layers, **options)
