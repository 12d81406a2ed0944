"""LoRA's layer with a hand-written backward pass; its values are the plain formula's.

    y = x W^T + b + ((x * mask) down^T) up^T        down (r, d1), up (d2, r), mask of dropout

A processor is slow at products with few columns, and fast at their transposes; the layer's output and the gradient of its input
are walked over once instead of three times.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def lora_linear(
    x: Float[Tensor, "*batch d1"],
    W: Float[Tensor, "d2 d1"],
    bias: Float[Tensor, " d2"] | None,
    up: Float[Tensor, "d2 r"],
    down: Float[Tensor, "r d1"],
    mask: Float[Tensor, "*batch d1"] | None,
) -> Float[Tensor, "*batch d2"]:
    """Return the y above; W and bias are frozen and get no gradient. Second derivatives are not defined."""
    rows = x.reshape(-1, x.shape[-1])
    y = _LoRA.apply(rows, W, bias, up, down, None if mask is None else mask.reshape(rows.shape))
    return y.reshape(*x.shape[:-1], W.shape[0])


class _LoRA(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, W, bias, up, down, mask):
        dropped = rows if mask is None else rows * mask
        hidden = down @ dropped.T  # (r, n)
        y = rows @ W.T if bias is None else torch.addmm(bias, rows, W.T)
        ctx.save_for_backward(dropped, hidden, W, up, down, mask)
        return y.addmm_(hidden.T, up.T)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        dropped, hidden, W, up, down, mask = ctx.saved_tensors
        need_x, _, _, need_up, need_down, _ = ctx.needs_input_grad
        dhidden = up.T @ dy.T if need_x or need_down else None  # (r, n)
        dx = None
        if need_x:
            dx = dy @ W
            dx = dx.addmm_(dhidden.T, down) if mask is None else dx.addcmul_(dhidden.T @ down, mask)
        dup = (hidden @ dy).T if need_up else None
        ddown = dhidden @ dropped if need_down else None
        return dx, None, None, dup, ddown, None
