"""A faster backward pass for GLoRA layers whose A is not LoRA. A reader may skip it: the values are the plain formula's.

Training the plain formula forms the dense gradient of the effective weight, (d2, d1), a third of all multiplications of a step.
Only A as LoRA needs it. When A scales whole rows (vector, scalar) or is none, the layer is

    y = gain * (x W0^T) + (x up^T) down^T + bias        gain (d2), down (d2, r), up (r, d1)

and the gradients of gain, down, up and bias come from products with r columns. B as a vector is down with up = 1, r = 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def fast_linear(
    x: Float[Tensor, "*batch d1"],
    W0: Float[Tensor, "d2 d1"],
    gain: Float[Tensor, " d2"] | None,
    down: Float[Tensor, "d2 r"] | None,
    up: Float[Tensor, "r d1"] | None,
    bias: Float[Tensor, " d2"] | None,
) -> Float[Tensor, "*batch d2"]:
    """Return the y above; parts that are None are left out. W0 gets no gradient; second derivatives are not defined."""
    return _FastLinear.apply(x, W0, gain, down, up, bias)


class _FastLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W0, gain, down, up, bias):
        rows = x.reshape(-1, x.shape[-1])
        plain = rows @ W0.T if gain is not None else None  # the gain's gradient needs it
        if gain is None:
            W = W0 if down is None else torch.addmm(W0, down, up)
            y = rows @ W.T if bias is None else torch.addmm(bias, rows, W.T)
        else:
            y = plain * gain if bias is None else torch.addcmul(bias, plain, gain)
            if down is not None:
                y = y.addmm_(rows @ up.T, down.T)
        ctx.save_for_backward(rows, W0, gain, down, up, plain)
        ctx.shape = x.shape
        return y.view(*x.shape[:-1], W0.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        rows, W0, gain, down, up, plain = ctx.saved_tensors
        need_x, _, need_gain, need_down, need_up, need_bias = ctx.needs_input_grad
        dy = dy.reshape(-1, W0.shape[0])
        dx = None
        if need_x:
            W = W0 if gain is None else W0 * gain[:, None]
            W = W if down is None else torch.addmm(W, down, up)
            dx = (dy @ W).view(ctx.shape)
        dgain = torch.linalg.vecdot(dy, plain, dim=0) if need_gain else None
        ddown = dy.T @ (rows @ up.T) if need_down else None
        dup = (dy @ down).T @ rows if need_up else None
        return dx, None, dgain, ddown, dup, dy.sum(0) if need_bias else None
