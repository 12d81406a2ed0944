"""Visual prompt tuning (VPT; Jia et al., 2022): learned tokens join the sequence, in front of all blocks or of each.

Prompts take part in the softmax of every attention, so no weight of the backbone can take their place.
"""

from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.glora.fusable import Fusable, NotFusable
from glora_lib.glora.layer import check_whole
from glora_lib.glora.plain import refuse_adapted
from glora_lib.methods.vit import blocks, freeze, layers


def vpt_shallow(model: nn.Module, tokens: int = 50, dropout: float = 0.1) -> nn.Module:
    """Return the model with `tokens` prompts in front of the first block, which then pass through all of them.

    The first block lets them in and the last one out, so that whoever walks over the blocks, as gradient checkpointing does,
    meets them. `forward_intermediates` gives what the blocks make of the image's own tokens.
    """
    _check(model, tokens)
    found = blocks(model)
    freeze(model)
    if len(found) == 1:
        found[0] = Prompted([found[0]], tokens, model, dropout)
        return model
    found[0] = PromptsIn([found[0]], tokens, model, dropout)
    found[-1] = PromptsOut(found[-1], tokens, model.num_prefix_tokens, dropout)
    model.forward_intermediates = partial(_forward_intermediates, model)  # as a method it could not be pickled
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


class Prompted(nn.Sequential, Fusable):
    """Blocks whose input gains prompts behind the class token, and whose output loses them again.

    Taking them off behind the last block changes nothing where the class token is read, and keeps them out of average pooling.
    Where in the sequence they stand is without meaning: positions were added before (NOAH's code appends them).
    While training, dropout acts on the prompts and, unlike in the authors' code, on what the blocks put out as well.
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
        return _without(super().forward(self.with_prompts(x)), self.prefix, self.used)[0]

    def with_prompts(self, x: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch more d"]:
        """Return the sequence with the prompts behind its prefix."""
        prompt = self.dropout(self.prompt[: self.used].expand(len(x), -1, -1))
        return torch.cat([x[:, : self.prefix], prompt, x[:, self.prefix :]], 1)

    def fuse(self):
        """Raise NotFusable."""
        raise NotFusable("VPT cannot be fused: its prompts take part in every softmax, where no weight can stand for them")


class PromptsIn(Prompted):
    """The first of several blocks that prompts pass through."""

    def forward(self, x: Float[Tensor, "batch n d"]) -> Float[Tensor, "batch more d"]:
        return self[0](self.with_prompts(x))


class PromptsOut(nn.Sequential):
    """The last of several blocks that prompts pass through, with the dropout of `Prompted` behind it."""

    def __init__(self, block: nn.Module, tokens: int, prefix: int, dropout: float):
        super().__init__(block, nn.Dropout(dropout))
        self.tokens, self.prefix = tokens, prefix

    def forward(self, x: Float[Tensor, "batch more d"]) -> Float[Tensor, "batch n d"]:
        return _without(super().forward(x), self.prefix, self.tokens)[0]


def _without(x: Tensor, prefix: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Return a sequence without the prompts behind its prefix, and the prompts."""
    return torch.cat([x[:, :prefix], x[:, prefix + tokens :]], 1), x[:, prefix : prefix + tokens]


def _forward_intermediates(model: nn.Module, *args, **kwargs):
    """Timm's method, with the prompts out of the way of what it collects behind each block."""
    with _beside(model.blocks):
        checkpointing, model.grad_checkpointing = model.grad_checkpointing, False  # values are the same without
        try:
            return type(model).forward_intermediates(model, *args, **kwargs)
        finally:
            model.grad_checkpointing = checkpointing


@contextmanager
def _beside(found: nn.Sequential):
    """While it lasts, what a block makes of the prompts goes to the next block beside the sequence."""
    first, carried = found[0], []

    def enter(block, args):
        x, prompts = args[0], carried.pop()
        return torch.cat([x[:, : first.prefix], prompts, x[:, first.prefix :]], 1), *args[1:]

    def leave(block, args, x):
        x, prompts = _without(x, first.prefix, first.used)
        carried[:] = [prompts]
        return x

    handles = [block.register_forward_pre_hook(enter) for block in found[1:]]
    handles += [block.register_forward_hook(leave) for block in found if not isinstance(block, PromptsOut)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(model: nn.Module, tokens: int) -> None:
    if not hasattr(model, "num_prefix_tokens") or not hasattr(model, "blocks"):
        refuse_adapted(model)
        raise ValueError(f"{type(model).__name__} has no sequence of tokens that a prompt could join; VPT needs a timm ViT")
    layers(model, ("attn",), nn.Module)
    check_whole(tokens, "tokens")
