"""LoRA (Hu et al., 2021), W = W0 + Bd @ Bu: in every linear layer, in the fused qkv, or in queries and values alone.

The first two are points of GLoRA's space, where only B is chosen, and use its layer: Bu starts as Xavier's. The third has
a layer of its own, since the fused qkv is one linear layer to GLoRA. Scale 1 and no dropout everywhere.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.methods.probes import linear
from glora_lib.methods.vit import check_rank, layers, with_weights
from glora_lib.model import adapt
from glora_lib.space import Choice

PLACEMENTS = ("all", "qkv", "qv")


def lora(model: nn.Module, rank: int = 8, placement: str = "all") -> nn.Module:
    """Return the model with LoRA in its linear layers; only the factors and the head are trained.

    Args:
        rank: at most the width of each adapted layer's input, else ValueError.
        placement: "all" linear layers of any module; "qkv", one Bu shared by queries, keys and values, as in the code of NOAH,
            from which the papers take this row; "qv", factors of their own for queries and for values, as in LoRA's paper.
            For rank 8 the last two have 294,912 parameters each on ViT-B, but are different models.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement {placement!r} is not known; valid: {', '.join(PLACEMENTS)}")
    if placement == "qv":
        found = layers(model, ("attn.qkv",))
        check_rank(rank, found)
        linear(model)
        for name, layer in found.items():
            model.set_submodule(name, QueryValueLoRA(layer, rank))
        return model
    found = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    wanted = layers(model, ("attn.qkv",)) if placement == "qkv" else found
    check_rank(rank, {name: layer for name, layer in wanted.items() if "head" not in name.split(".")})
    skip = [name for name in found if name not in wanted]
    net = adapt(model, rank=rank, skip=skip)
    net.use(dict.fromkeys(net.layer_names, Choice(B=f"lora{rank}")))
    for name in net.layer_names:
        layer = net.layer(name)
        for tensor in (layer.Ad, layer.Au, layer.Cd, layer.Cu, layer.D, layer.E):
            tensor.requires_grad_(False)
    return net


class QueryValueLoRA(nn.Module):
    """A fused qkv whose queries and values have LoRA: rows q of W0 gain up[0] @ down[0], rows v up[1] @ down[1]."""

    def __init__(self, qkv: nn.Linear, rank: int):
        super().__init__()
        d2, d1 = qkv.weight.shape
        if d2 % 3:
            raise ValueError(f"{d2} outputs are no fused queries, keys and values of equal width")
        self.qkv = qkv
        self.down = nn.Parameter(qkv.weight.new_empty(2, rank, d1).uniform_(-(d1**-0.5), d1**-0.5))  # Kaiming, as loralib's
        self.up = nn.Parameter(qkv.weight.new_zeros(2, d2 // 3, rank))

    def forward(self, x: Float[Tensor, "*batch d1"]) -> Float[Tensor, "*batch d2"]:
        q, v = (x @ down.T @ up.T for down, up in zip(self.down, self.up, strict=True))
        return self.qkv(x) + torch.cat([q, torch.zeros_like(q), v], -1)

    @torch.no_grad()
    def fuse(self) -> nn.Linear:
        """Return a plain linear layer with the same function."""
        q, v = self.up @ self.down
        return with_weights(self.qkv, self.qkv.weight + torch.cat([q, torch.zeros_like(q), v]), self.qkv.bias)
