"""A ViT whose head reads the class token alone needs nothing else after its last attention. A reader may skip it.

The values are the same; the last block's MLP, two thirds of that block, is computed for one token of each image.
"""

from contextlib import contextmanager
from types import MethodType

from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.training.joined import Joined
from glora_lib.training.wrappers import hooked


@contextmanager
def class_token_alone(model: nn.Module):
    """While it lasts, the last block of a ViT gives the class token alone, (batch, 1, width). Other models stay as they are.

    So does a model whose last block or norm somebody watches by a hook.
    """
    if not _reads_class_token(model):
        yield
        return
    if isinstance(model.blocks, Joined):
        model.blocks.alone = True
        try:
            yield
        finally:
            model.blocks.alone = False
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

    # a class derived from it may read more, and so may methods that were replaced on the instance
    if type(model) is not VisionTransformer or vars(model).keys() & {"forward", "forward_features", "forward_head", "pool"}:
        return False
    token = model.global_pool == "token" and model.attn_pool is None and not model.grad_checkpointing
    block = model.blocks[-1] if len(model.blocks) else None
    watched = any(hooked(top) for top in (block, model.norm) if top is not None)
    return token and type(block) is Block and "forward" not in vars(block) and not watched


def _forward(block: nn.Module, x: Float[Tensor, "batch tokens width"], **mask) -> Float[Tensor, "batch 1 width"]:
    x = (x + block.drop_path1(block.ls1(block.attn(block.norm1(x), **mask))))[:, :1]
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
