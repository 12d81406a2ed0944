"""SSF (Lian et al., 2022): what every layer puts out is scaled and shifted, y -> gamma * y + beta, feature by feature.

Fusing it is part of the paper, but not of the authors' code: rows of a weight are scaled, and a norm's own gamma and beta.
"""

import torch
from torch import Tensor, nn

from glora_lib.methods.vit import freeze, layers, with_weights


def ssf(model: nn.Module) -> nn.Module:
    """Return the model with SSF behind the patch embedding, every linear layer and every LayerNorm but those inside attention.

    205,824 parameters on ViT-B. Gamma starts normal around 1 and beta around 0, with deviation 0.02.
    Raises ValueError for a model without these layers, and for norms other than LayerNorm, which have no beta to fuse into.
    """
    found = layers(model) | layers(model, ("norm1", "norm2"), nn.LayerNorm)
    names = ["patch_embed.norm", "norm_pre", "norm", "fc_norm"]
    around = {name: module for name, module in model.named_modules() if name in names and isinstance(module, nn.LayerNorm)}
    if "patch_embed.norm" not in around:
        around["patch_embed.proj"] = model.patch_embed.proj
    made = {name: ScaledShifted(layer) for name, layer in (found | around).items()}
    freeze(model)
    for name, layer in made.items():
        model.set_submodule(name, layer)
    return model


class ScaledShifted(nn.Module):
    """A linear layer, convolution or LayerNorm whose output is scaled and shifted."""

    def __init__(self, layer: nn.Linear | nn.Conv2d | nn.LayerNorm):
        super().__init__()
        if layer.weight is None:
            raise ValueError(f"SSF needs a weight to fuse into, and {layer} has none")
        self.layer = layer
        self.gamma = nn.Parameter(layer.weight.new_empty(len(layer.weight)).normal_(1, 0.02))
        self.beta = nn.Parameter(layer.weight.new_empty(len(layer.weight)).normal_(0, 0.02))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if isinstance(self.layer, nn.Conv2d):  # features are the second axis there
            return y * self.gamma[:, None, None] + self.beta[:, None, None]
        return y * self.gamma + self.beta

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Return a plain layer of the same class with the same function. A layer without bias gains one."""
        weight, bias = self.layer.weight, self.layer.bias
        gamma = self.gamma.view(-1, *[1] * (weight.dim() - 1))
        return with_weights(self.layer, weight * gamma, self.beta if bias is None else bias * self.gamma + self.beta)
