"""SuperLoRA's presets on the queries and values of a timm ViT, as methods beside the others; see `glora_lib.superlora`."""

from collections.abc import Callable
from functools import partial

from torch import nn

from glora_lib.methods.vit import freeze, layers
from glora_lib.superlora import PRESETS, SuperLoRAModel, queries_and_values


def superlora(model: nn.Module, preset: Callable, **options) -> SuperLoRAModel:
    """Return the model with a preset on all its queries and values; its groups and the head are trained.

    `options` are the preset's and the fields of `SuperLoRA`. The model must be a timm ViT with a fused qkv, else ValueError.
    """
    found = layers(model, ("attn.qkv",))
    parts = queries_and_values({name: layer.weight.shape for name, layer in found.items()})
    net = preset(**options).on(model, parts)
    freeze(net.model)
    return net


SUPERLORA = {f"superlora_{name}": partial(superlora, preset=preset) for name, preset in PRESETS.items()}
