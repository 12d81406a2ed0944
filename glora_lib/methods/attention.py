"""LoRA and GLoRA on the attention of a language model of transformers, as in GLoRA's experiments with LLaMA.

Nothing else is trained: no head, no norm, no embedding. What is trained is float32, beside frozen weights of any precision.
"""

import torch
from torch import nn

from glora_lib.glora.adapt import adapt
from glora_lib.glora.model import AdaptedModel
from glora_lib.methods.lora import LoRALinear
from glora_lib.methods.vit import check_rank

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")  # LLaMA's linear layers of attention, by the last part of their names


def attention(model: nn.Module) -> dict[str, nn.Linear]:
    """Return name -> linear layer of the attention; a model without such layers is a ValueError."""
    named = model.named_modules()
    found = {name: layer for name, layer in named if type(layer) is nn.Linear and name.rpartition(".")[2] in ATTENTION}
    if not found:
        raise ValueError(f"{type(model).__name__} has no linear layer called {', '.join(ATTENTION)}; it is no LLaMA")
    return found


def lora(model: nn.Module, rank: int = 4, scale: float = 1.0) -> nn.Module:
    """Return the model with LoRA in the linear layers of its attention, without dropout."""
    found = attention(model)
    check_rank(rank, found)
    model.requires_grad_(False)
    for name, layer in found.items():
        model.set_submodule(name, LoRALinear(layer, rank, scale, dropout=0.0))
    return _precise(model)


def glora(model: nn.Module, rank: int = 4, scale_broadcast: bool = False, gain_bias: bool = True) -> AdaptedModel:
    """Return the model with GLoRA in the linear layers of its attention.

    LLaMA's have no bias. With `gain_bias` a layer gains one where C or E is chosen, as in the authors' code; without, it has A
    and B alone (`Space` with `AdaptedModel.kinds` chooses nothing else), and a fused model has the parameters of before.
    """
    kept = [name for name, layer in model.named_modules() if type(layer) is nn.Linear and name not in attention(model)]
    return _precise(adapt(model, rank, skip=kept, train=(), scale_broadcast=scale_broadcast, gain_bias=gain_bias))


def _precise(net: nn.Module) -> nn.Module:
    """The net with its trained parameters in float32: in bfloat16 a step of 2e-5 is lost beside a number of 0.01."""
    for p in net.parameters():
        if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16):
            p.data = p.data.float()
    return net
