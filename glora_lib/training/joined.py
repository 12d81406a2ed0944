"""Blocks of a ViT with each sum and the norm behind it as one operation. A reader may skip it: the values are the blocks'.

A block adds what attention or the MLP gives, scaled and at times dropped, to what it was given, and the next norm reads the
sum: several walks over the activations in torch's own operations, one here (`training.fused`).
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from glora_lib.training.fused import fused
from glora_lib.training.noise import Noise, rate
from glora_lib.training.wrappers import hooked

FEW = 64  # tokens


def join_blocks(model: nn.Module) -> "Joined | None":
    """Put `Joined` in place of the blocks of a ViT of timm, wherever it is in the model; return it, or None if there is none.

    Blocks stay as they are where one is of another class, they or a part has a hook, or one owns a norm that is trained for
    several runs.
    """
    from timm.models.vision_transformer import VisionTransformer  # takes seconds, and whoever has a ViT has it already

    for module in model.modules():
        if isinstance(module, VisionTransformer) and not module.grad_checkpointing and _usual(module.blocks):
            module.blocks = Joined(module.blocks)
            return module.blocks
    return None


class Joined(nn.Sequential):
    """Blocks of a ViT, one after another, by the names that they had.

    Attributes:
        alone: give the class token alone, (batch, 1, width): nothing behind the last attention is computed for the others.
        copies: the batch stands for so many equal ones in a row.
    """

    def __init__(self, blocks: nn.Sequential):
        super().__init__(*blocks)
        self.training, self.alone, self.copies = blocks.training, False, 1
        self.drops = [drop for block in blocks for drop in (block.drop_path1, block.drop_path2)]
        rates = [rate(getattr(drop, "source", drop)) for drop in self.drops]
        self.dropping = any(rates)
        keep = torch.tensor([[1 - share] for share in rates], device=blocks[0].norm1.weight.device)
        self.register_buffer("keep", keep, persistent=False)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "all some width"]:
        if self.copies > 1:
            x = x.expand(self.copies, *x.shape).flatten(0, 1)
        blocks, masks = list(self), iter(self._masks(x))
        normed = _norm(x, blocks[0].norm1).to(_dtype(x, blocks[0].attn.qkv))
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            y, one = _attend(block.attn, normed), self.alone and after is None
            if one:
                x, y = x[:, :1], y[:, :1]
            x, normed = _join(x, y, block.ls1, next(masks), block.norm2, _dtype(x, block.mlp.fc1), one)
            y = block.mlp(normed)
            if after is None:
                return _sum(x, y, _scale(block.ls2), next(masks))
            x, normed = _join(x, y, block.ls2, next(masks), after.norm1, _dtype(x, after.attn.qkv))

    def _masks(self, x: Tensor) -> list[Tensor | None]:
        """Return what each branch is multiplied by, (batch, 1, 1) or None: all stochastic depth of a batch is drawn at once."""
        if not (self.training and self.dropping):
            return [None] * len(self.drops)
        if any(isinstance(drop, Noise) for drop in self.drops):
            return [getattr(drop, "mask", None) for drop in self.drops]
        drawn = torch.rand(len(self.drops), len(x), device=x.device) < self.keep
        return list((drawn / self.keep).to(x.dtype)[..., None, None].unbind())


def _join(x: Tensor, y: Tensor, scale: nn.Module, mask: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype, few=False):
    """Return the sum of x and the branch y, and its norm in `dtype`; `few` numbers are not worth a kernel of their own."""
    with torch.autocast(x.device.type, enabled=False):
        return (_summed if few else _fused)(x, y, _scale(scale), mask, norm.weight, norm.bias, norm.eps, dtype)


def _summed(x, y, scale, mask, weight, bias, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = _sum(x, y, scale, mask)
    return x, F.layer_norm(x, weight.shape, weight, bias, eps).to(dtype)


def _sum(x: Tensor, y: Tensor, scale: Tensor | None, mask: Tensor | None) -> Tensor:
    y = y if scale is None else y * scale
    return x + (y if mask is None else y * mask)


_fused = fused(_summed)


def _attend(attention: nn.Module, x: Tensor) -> Tensor:
    """Return what attention makes of x; the gradients of queries, keys and values are put side by side in one walk, not two."""
    if not _plain(attention):
        return attention(x)
    parts = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).unbind(2)
    with _kernel(x):
        y = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
    return attention.proj(y.transpose(1, 2).flatten(2))


def _kernel(x: Tensor) -> AbstractContextManager:
    """Return the context of attention: what torch takes first on a GPU is made for more tokens than fit into one tile."""
    if x.device.type != "cuda" or x.shape[1] > FEW:
        return nullcontext()
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], set_priority=True)


def _plain(attention: nn.Module) -> bool:
    norms = (attention.q_norm, attention.k_norm, getattr(attention, "norm", None))
    dropped = rate(attention.attn_drop) or rate(attention.proj_drop) or isinstance(attention.proj_drop, Noise)
    gated = getattr(attention, "gate", None) is not None
    return attention.fused_attn and not dropped and not gated and all(type(n) in (nn.Identity, type(None)) for n in norms)


def _usual(blocks: nn.Sequential) -> bool:
    """Whether all blocks are timm's, their norms frozen or trained for one run, nothing else in a part's place, no hooks."""
    from timm.layers import Attention, DropPath, LayerNorm, LayerScale, Mlp
    from timm.models.vision_transformer import Block

    norms, drops = (nn.LayerNorm, LayerNorm), (DropPath, Noise, nn.Identity)

    def usual(block: nn.Module) -> bool:
        return (
            type(block) is Block
            and "forward" not in vars(block)
            and all(type(norm) in norms and norm.weight is not None for norm in (block.norm1, block.norm2))
            and all(type(scale) in (LayerScale, nn.Identity) for scale in (block.ls1, block.ls2))
            and all(type(d) in drops and getattr(d, "scale_by_keep", True) for d in (block.drop_path1, block.drop_path2))
            and type(block.attn) is Attention
            and type(block.mlp) is Mlp
        )

    return len(blocks) > 0 and all(map(usual, blocks)) and not hooked(blocks)


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _scale(module: nn.Module) -> Tensor | None:
    return getattr(module, "gamma", None)


def _dtype(x: Tensor, module: nn.Module) -> torch.dtype:
    """Return autocast's format where the module shortens its input at once; what adds to its input first gets all of it."""
    device = x.device.type
    shortens = isinstance(module, nn.Linear) or getattr(module, "form", None) is not None
    return torch.get_autocast_dtype(device) if shortens and torch.is_autocast_enabled(device) else x.dtype
