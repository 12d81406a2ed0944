"""Visual prompt tuning (VPT; Jia et al., 2022): learned tokens join the sequence, in front of all blocks or of each.

Prompts take part in the softmax of every attention, so no weight of the backbone can take their place.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.methods.vit import NotFusable, blocks, freeze, layers


def vpt_shallow(model: nn.Module, tokens: int = 50, dropout: float = 0.1) -> nn.Module:
    """Return the model with `tokens` prompts in front of the first block, which then pass through all of them."""
    _check(model, tokens)
    found = blocks(model)
    freeze(model)
    model.blocks = Prompted(found, tokens, model, dropout)
    return model


def vpt_deep(model: nn.Module, tokens: int = 50, dropout: float = 0.1) -> nn.Module:
    """Return the model with `tokens` new prompts in front of each block; what a block makes of them is dropped.

    Raises ValueError, as `vpt_shallow`, for fewer than one token and for a model without a sequence that prompts could join.
    """
    _check(model, tokens)
    freeze(model)
    for index, block in enumerate(blocks(model)):
        model.blocks[index] = Prompted([block], tokens, model, dropout)
    return model


class Prompted(nn.Sequential):
    """Blocks whose input gains prompts behind the class token, and whose output loses them again.

    Taking them off behind the last block changes nothing where the class token is read, and keeps them out of average pooling.
    Where in the sequence they stand is without meaning: positions were added before (NOAH's code appends them).
    """

    def __init__(self, parts, tokens: int, model: nn.Module, dropout: float):
        super().__init__(*parts)
        like, patch = next(model.parameters()), model.patch_embed.patch_size
        bound = (6 / (3 * patch[0] * patch[1] + model.embed_dim)) ** 0.5  # as in the authors' code
        self.prompt = nn.Parameter(like.new_empty(tokens, model.embed_dim).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)
        self.prefix = model.num_prefix_tokens
        self.used = tokens  # a supernet uses fewer

    def forward(self, x: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch n d"]:
        prompt = self.dropout(self.prompt[: self.used].expand(len(x), -1, -1))
        x = super().forward(torch.cat([x[:, : self.prefix], prompt, x[:, self.prefix :]], 1))  # (batch, n + used, d)
        return torch.cat([x[:, : self.prefix], x[:, self.prefix + self.used :]], 1)

    def fuse(self):
        """Raise NotFusable."""
        raise NotFusable("VPT cannot be fused: its prompts take part in every softmax, where no weight can stand for them")


def _check(model: nn.Module, tokens: int) -> None:
    if not hasattr(model, "num_prefix_tokens") or not hasattr(model, "blocks"):
        raise ValueError(f"{type(model).__name__} has no sequence of tokens that a prompt could join; VPT needs a timm ViT")
    layers(model, ("attn",), nn.Module)
    if tokens < 1:
        raise ValueError(f"tokens must be at least 1, not {tokens}")
