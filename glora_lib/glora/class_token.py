"""A ViT whose head reads the class token alone needs nothing else after its last attention. A reader may skip it.

The values are the same; the last block's MLP, two thirds of that block, is computed for one token of each image.
"""

from contextlib import contextmanager
from types import MethodType

from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def class_token_alone(model: nn.Module):
    """While it lasts, the last block of a ViT gives the class token alone, (batch, 1, width). Other models stay as they are."""
    if not _reads_class_token(model):
        yield
        return
    block = model.blocks[-1]
    block.forward = MethodType(_forward, block)
    try:
        yield
    finally:
        del block.forward  # the class's is seen again


def _reads_class_token(model: nn.Module) -> bool:
    """Whether nothing but the class token leaves the blocks; checkpointed blocks run again later, outside of the context."""
    from timm.models.vision_transformer import Block, VisionTransformer  # takes seconds, and whoever has a ViT has it already

    token = isinstance(model, VisionTransformer) and model.global_pool == "token" and model.attn_pool is None
    return token and type(model.blocks[-1]) is Block and not model.grad_checkpointing


def _forward(block: nn.Module, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch 1 width"]:
    x = (x + block.drop_path1(block.ls1(block.attn(block.norm1(x)))))[:, :1]
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
