"""Bottlenecks beside or behind the blocks' branches: Adapter (Houlsby et al., 2019) and AdaptFormer (Chen et al., 2022).

Both add a function that is not linear, so no weight of the backbone can take their place. Where a model has LayerScale they
stand outside it, on what is added to the residual stream; drop path drops them too (not so in AdaptFormer's own code).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.glora.fusable import Fusable, NotFusable
from glora_lib.glora.layer import check_whole
from glora_lib.methods.vit import freeze, layers


def adapter(model: nn.Module, width: int = 8, placement: str = "mlp", dropout: float = 0.1) -> nn.Module:
    """Return the model with z + up(QuickGELU(down z)) behind the MLP branch, or behind attention and MLP ("houlsby").

    The first is NOAH's version, of which the papers report 156,768 parameters; the second has 313,536. Initialised as in the
    code of NOAH: both matrices Xavier's, so that the model changes at once; biases normal with deviation 1e-6.
    """
    if placement not in ("mlp", "houlsby"):
        raise ValueError(f"placement {placement!r} is not known; valid: mlp, houlsby")
    check_whole(width, "width")
    branches = layers(model, ("ls1", "ls2") if placement == "houlsby" else ("ls2",), nn.Module)
    freeze(model)
    for name, branch in branches.items():
        model.set_submodule(name, SerialAdapter(branch, model, width, dropout))
    return model


def adaptformer(model: nn.Module, width: int = 8, scale: float = 0.1, bias: bool = True, dropout: float = 0.1) -> nn.Module:
    """Return the model with MLP(z) + scale * up(ReLU(down z)), z the normalised input of the MLP (Eq. 3 of the paper).

    Up and biases start at zero, down as Kaiming's. With biases 156,768 parameters on ViT-B, without 147,456.
    """
    check_whole(width, "width")
    found = layers(model, ("mlp", "ls2"), nn.Module)
    freeze(model)
    for name in [name for name in found if name.endswith("mlp")]:
        last = name.removesuffix("mlp") + "ls2"
        model.set_submodule(name, ParallelAdapter(found[name], found[last], model, width, scale, bias, dropout))
        model.set_submodule(last, nn.Identity())  # now part of the branch
    return model


class Bottleneck(nn.Module):
    """up(act(down z)), with dropout in between."""

    def __init__(self, model: nn.Module, width: int, act, bias: bool, dropout: float):
        super().__init__()
        like, d = next(model.parameters()), model.embed_dim
        self.down = nn.Linear(d, width, bias, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(width, d, bias, device=like.device, dtype=like.dtype)
        self.act, self.dropout = act, nn.Dropout(dropout)
        self.used = width  # a supernet uses less

    def forward(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        bias = None if self.down.bias is None else self.down.bias[: self.used]
        hidden = F.linear(z, self.down.weight[: self.used], bias)  # (*batch, used)
        return F.linear(self.dropout(self.act(hidden)), self.up.weight[:, : self.used], self.up.bias)


class SerialAdapter(Fusable):
    """Stands for a branch's LayerScale or identity, the last thing before the residual sum, and follows it."""

    def __init__(self, branch: nn.Module, model: nn.Module, width: int, dropout: float = 0.1):
        from timm.layers import quick_gelu  # here, since timm is slow to import

        super().__init__()
        self.branch = branch
        self.adapter = Bottleneck(model, width, quick_gelu, True, dropout)
        for part in (self.adapter.down, self.adapter.up):
            nn.init.xavier_uniform_(part.weight)
            nn.init.normal_(part.bias, std=1e-6)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        z = self.branch(x)
        return z + self.adapter(z) if self.adapter.used else z

    def fuse(self):
        """Raise NotFusable."""
        raise NotFusable("Adapter cannot be fused: there is an activation between its two matrices")


class ParallelAdapter(Fusable):
    """Stands for an MLP and its LayerScale, and adds a bottleneck beside them."""

    def __init__(self, mlp: nn.Module, branch: nn.Module, model: nn.Module, width, scale, bias, dropout):
        super().__init__()
        self.mlp, self.branch, self.scale = mlp, branch, scale
        self.adapter = Bottleneck(model, width, F.relu, bias, dropout)
        nn.init.kaiming_uniform_(self.adapter.down.weight, a=5**0.5)
        nn.init.zeros_(self.adapter.up.weight)
        if bias:
            nn.init.zeros_(self.adapter.down.bias)
            nn.init.zeros_(self.adapter.up.bias)

    def forward(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return self.branch(self.mlp(z)) + self.scale * self.adapter(z)

    def fuse(self):
        """Raise NotFusable."""
        raise NotFusable("AdaptFormer cannot be fused: there is an activation between its two matrices")
