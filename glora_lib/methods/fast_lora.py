"""LoRA's layer with a hand-written backward pass; its values are the plain formula's.

    y = x W^T + b + ((x * mask * scale) down^T) up^T        down (r, d1), up (d2, r), mask and scale of dropout

A processor is slow at products with few columns, and fast at their transposes; the layer's output and the gradient of its input
are walked over once instead of three times. Several runs that share W and b compute at once: their factors, and x, then have a
leading axis of runs.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable


def lora_linear(
    x: Float[Tensor, "*batch d1"],
    W: Float[Tensor, "d2 d1"],
    bias: Float[Tensor, " d2"] | None,
    up: Float[Tensor, "*runs d2 r"],
    down: Float[Tensor, "*runs r d1"],
    dropped: Float[Tensor, "*batch d1"],
    mask: Shaped[Tensor, "*batch d1"] | None,
    scale: float,
) -> Float[Tensor, "*batch d2"]:
    """Return the y above; W and bias are frozen and get no gradient. Second derivatives are not defined.

    `dropped` is x * mask * scale, whose gradient goes to x; the mask, of numbers or booleans, is None where nothing is dropped.

    Factors of several runs, (runs, d2, r) and (runs, r, d1), take x (runs, ..., d1).
    """
    rows = x.reshape(*up.shape[:-2], -1, x.shape[-1])
    mask = None if mask is None else mask.reshape(rows.shape)
    y = _LoRA.apply(rows, W, bias, up, down, dropped.reshape(rows.shape), mask, scale)
    return y.reshape(*x.shape[:-1], W.shape[0])


class _LoRA(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, W, bias, up, down, dropped, mask, scale):
        hidden = down @ dropped.mT  # (*runs, r, n)
        folded = rows.flatten(0, -2)
        y = folded @ W.T if bias is None else torch.addmm(bias, folded, W.T)
        ctx.save_for_backward(dropped, hidden, W, up, down, mask)
        ctx.scale = scale
        return _add_product(y.view(*rows.shape[:-1], -1), hidden.mT, up.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        dropped, hidden, W, up, down, mask = ctx.saved_tensors
        need_x, _, _, need_up, need_down, *_ = ctx.needs_input_grad
        dhidden = up.mT @ dy.mT if need_x or need_down else None  # (*runs, r, n)
        dx = None
        if need_x:
            dx = (dy.flatten(0, -2) @ W).view(dropped.shape)
            if mask is None:
                dx = _add_product(dx, dhidden.mT, down)
            else:
                dx.addcmul_(dhidden.mT @ down, mask, value=ctx.scale)
        dup = (hidden @ dy).mT if need_up else None
        ddown = dhidden @ dropped if need_down else None
        return dx, None, None, dup, ddown, None, None, None


def _add_product(to: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Add a product of matrices, or one a run, in place."""
    return to.addmm_(first, second) if to.dim() == 2 else to.baddbmm_(first, second)
