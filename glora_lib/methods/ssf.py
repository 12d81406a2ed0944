"""SSF (Lian et al., 2022): what every layer puts out is scaled and shifted, y -> gamma * y + beta, feature by feature.

Fusing it is part of the paper, but not of the authors' code: rows of a weight are scaled, and a norm's own gamma and beta.
"""

from torch import Tensor, nn

from glora_lib.glora.fusable import StandIn
from glora_lib.methods.vit import freeze, fused_layer, layers, refuse_deaf


def ssf(model: nn.Module) -> nn.Module:
    """Return the model with SSF behind the patch embedding, every linear layer and every LayerNorm but those inside attention.

    These are the places of its authors' code, 205,824 parameters on ViT-B; the GLoRA paper names fewer, which would be 75,264.
    Gamma starts normal around 1 and beta around 0, with deviation 0.02.

    Raises ValueError for a model without these layers, and for norms other than LayerNorm, which have no beta to fuse into.
    """
    found = layers(model) | layers(model, ("norm1", "norm2"), nn.LayerNorm)
    names = ["patch_embed.norm", "norm_pre", "norm", "fc_norm"]
    around = {name: module for name, module in model.named_modules() if name in names and isinstance(module, nn.LayerNorm)}
    if "patch_embed.norm" not in around:
        around["patch_embed.proj"] = model.patch_embed.proj
    found |= around
    if bare := [name for name, layer in found.items() if layer.weight is None]:
        raise ValueError(f"SSF needs a weight to fuse into, and {bare[0]!r} has none")
    refuse_deaf(model, found, "SSF")
    freeze(model)
    for name, layer in found.items():
        model.set_submodule(name, ScaledShifted(layer))
    return model


class ScaledShifted(StandIn):
    """A linear layer, convolution or LayerNorm whose output is scaled and shifted."""

    def __init__(self, layer: nn.Linear | nn.Conv2d | nn.LayerNorm):
        super().__init__(layer)
        self.layer = layer
        self.gamma = nn.Parameter(layer.weight.new_empty(len(layer.weight)).normal_(1, 0.02))
        self.beta = nn.Parameter(layer.weight.new_empty(len(layer.weight)).normal_(0, 0.02))

    def forward(self, input: Tensor) -> Tensor:
        self._felt()
        y = self.layer(input)
        if isinstance(self.layer, nn.Conv2d):  # features are the second axis there
            return y * self.gamma[:, None, None] + self.beta[:, None, None]
        return y * self.gamma + self.beta

    def effective(self) -> tuple[Tensor, Tensor]:
        """Return the scaled weight and the scaled and shifted bias. A layer without bias gains one."""
        weight, bias = self.layer.weight, self.layer.bias
        gamma = self.gamma.view(-1, *[1] * (weight.dim() - 1))
        return weight * gamma, self.beta if bias is None else bias * self.gamma + self.beta

    def fuse(self) -> nn.Module:
        """Return a plain layer of the same class with the same function."""
        return fused_layer(self, self.layer)
