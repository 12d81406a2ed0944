"""LoRA (Hu et al., 2021) as a point of GLoRA's space: B is LoRA, everything else none, on every linear layer."""

from torch import nn

from glora_lib.model import AdaptedModel, adapt
from glora_lib.space import Choice


def lora(model: nn.Module, rank: int = 8) -> AdaptedModel:
    """Return the model with W = W0 + Bd @ Bu in every linear layer, scale 1; only Bd, Bu and the head are trained."""
    net = adapt(model, rank=rank)
    net.use(dict.fromkeys(net.layer_names, Choice(B=f"lora{rank}")))
    for name in net.layer_names:
        layer = net.layer(name)
        for tensor in (layer.Ad, layer.Au, layer.Cd, layer.Cu, layer.D, layer.E):
            tensor.requires_grad_(False)
    return net
