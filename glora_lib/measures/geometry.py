"""How far a layer's output moves when a support tensor does: why B's broadcast forms need small rates."""

import torch
from torch import nn

from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.space import Choice, lora_rank
from glora_lib.training.head import head_of


@torch.no_grad()
def output_shift(
    model: nn.Module, images: torch.Tensor, form: str, *, scale_broadcast: bool = False, step: float = 1e-3, rank: int = 8
) -> float:
    """Return the mean absolute change of a linear layer's output when B, in the given form, takes one step from the start.

    Every free entry of Bd moves by `step` with a random sign, as far as one step of Adam would move it. The mean is over all
    entries of the outputs of all linear layers but the head, on the inputs that `images` give them in `model`.
    """
    inputs: dict[nn.Module, torch.Tensor] = {}
    heads = head_of(model)
    linears = [m for name, m in model.named_modules() if type(m) is nn.Linear and name not in heads]
    hooks = [linear.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0]})) for linear in linears]
    model(images)
    for hook in hooks:
        hook.remove()
    shifts = []
    generator = torch.Generator().manual_seed(0)
    for linear in linears:
        layer = GLoRALinear(linear, max(rank, lora_rank(form)), scale_broadcast).use(Choice(B=form))
        signs = torch.randint(0, 2, layer.Bd.shape, generator=generator) * 2.0 - 1
        layer.Bd += step * signs
        shifts.append((layer(inputs[linear]) - linear(inputs[linear])).abs().mean())
    return float(torch.stack(shifts).mean())
