"""The GLoRA layer with a hand-written backward pass. A reader may skip it: its values are the plain formula's.

Training the plain formula forms the dense gradient of the effective weight, (d2, d1), a third of all multiplications of a step,
and walks over weight-sized arrays about ten times. Only A as LoRA needs that gradient. Otherwise the layer is

    y = gain * (x W0^T) + (x up^T) down^T + bias        gain (d2), down (d2, r), up (r, d1)

and the gradients of gain, down, up and bias come from products with r columns. B as a vector is down with up = 1, r = 1.

Three things make it cheap: products with few columns are computed transposed, which is several times as fast on a processor;
a gain that is one number for all rows finds its gradient in that of x; and a gain scales whichever array is smaller, the weight
or the layer's input and output.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def scaled_rows_linear(
    x: Float[Tensor, "*batch d1"],
    W0: Float[Tensor, "d2 d1"],
    gain: Float[Tensor, " gains"] | None,
    down: Float[Tensor, "d2 r"] | None,
    up: Float[Tensor, "r d1"] | None,
    bias: Float[Tensor, " d2"] | None,
) -> Float[Tensor, "*batch d2"]:
    """Return the y above, for A that scales whole rows or is none; parts that are None are left out.

    `gain` has an entry for each row of W0, or a single one for all.
    W0 gets no gradient; second derivatives are not defined.
    """
    return _ScaledRows.apply(x, W0, gain, down, up, bias)


def scaled_entries_linear(
    x: Float[Tensor, "*batch d1"],
    W0: Float[Tensor, "d2 d1"],
    Ad: Float[Tensor, "d2 ra"],
    Au: Float[Tensor, "ra d1"],
    down: Float[Tensor, "d2 r"] | None,
    up: Float[Tensor, "r d1"] | None,
    bias: Float[Tensor, " d2"] | None,
) -> Float[Tensor, "*batch d2"]:
    """Return x W^T + bias with W = W0 + W0 * (Ad Au) + down up, for A as LoRA. W0 gets no gradient, as above."""
    return _ScaledEntries.apply(x, W0, Ad, Au, down, up, bias)


class _ScaledRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W0, gain, down, up, bias):
        rows = x.reshape(-1, x.shape[-1])
        # the gradient of a gain that differs from row to row needs x W0^T; a common one does without if x has a gradient
        keep = gain is not None and ctx.needs_input_grad[2] and not (len(gain) == 1 and ctx.needs_input_grad[0])
        plain = None
        if keep or (gain is not None and len(rows) < W0.shape[1]):
            plain = rows @ W0.T
            y = plain * gain if bias is None else torch.addcmul(bias, plain, gain)
        else:
            W = W0 if gain is None else W0 * gain[:, None]  # a smaller array than y
            y = rows @ W.T if bias is None else torch.addmm(bias, rows, W.T)
        if down is not None:
            y.addmm_(_thin(rows, up.T), down.T)
        ctx.save_for_backward(rows, W0, gain, down, up, plain if keep else None)
        ctx.shape = x.shape
        return y.view(*x.shape[:-1], W0.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        rows, W0, gain, down, up, plain = ctx.saved_tensors
        need_x, _, need_gain, need_down, need_up, need_bias = ctx.needs_input_grad
        dy = dy.reshape(-1, W0.shape[0])
        dx = dgain = None
        if plain is not None:
            dgain = torch.linalg.vecdot(dy, plain, dim=0).sum_to_size(gain.shape)
        if gain is not None and len(gain) > 1 and need_x:
            dx = (dy * gain) @ W0 if len(dy) < W0.shape[1] else dy @ (W0 * gain[:, None])  # the smaller of the two is scaled
        elif need_x:
            dx = dy @ W0
            if need_gain:
                dgain = torch.linalg.vecdot(rows.flatten(), dx.flatten()).reshape(1)
            if gain is not None:
                dx *= gain
        dy_down = _thin(dy, down) if need_up or (need_x and down is not None) else None
        if need_x and down is not None:
            dx.addmm_(dy_down, up)
        ddown = _thin(dy.T, _thin(rows, up.T)) if need_down else None
        dup = dy_down.T @ rows if need_up else None
        return dx.view(ctx.shape) if need_x else None, None, dgain, ddown, dup, dy.sum(0) if need_bias else None


class _ScaledEntries(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W0, Ad, Au, down, up, bias):
        rows = x.reshape(-1, x.shape[-1])
        W = _scaled(W0, Ad, Au, down, up)
        y = rows @ W.T if bias is None else torch.addmm(bias, rows, W.T)
        ctx.save_for_backward(rows, W0, Ad, Au, down, up, W)
        ctx.shape = x.shape
        return y.view(*x.shape[:-1], W0.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        rows, W0, Ad, Au, down, up, W = ctx.saved_tensors
        need_x, _, need_Ad, need_Au, need_down, need_up, need_bias = ctx.needs_input_grad
        dy = dy.reshape(-1, W0.shape[0])
        dx = (dy @ W).view(ctx.shape) if need_x else None
        dA = (dy.T @ rows).mul_(W0) if need_Ad or need_Au else None
        ddown = _thin(dy.T, _thin(rows, up.T)) if need_down else None
        dup = _thin(dy, down).T @ rows if need_up else None
        return (
            *(dx, None, _thin(dA, Au.T) if need_Ad else None, Ad.T @ dA if need_Au else None),
            *(ddown, dup, dy.sum(0) if need_bias else None),
        )


def _scaled(W0: Tensor, Ad: Tensor, Au: Tensor, down: Tensor | None, up: Tensor | None) -> Float[Tensor, "d2 d1"]:
    """Return W0 + W0 * (Ad Au) + down up."""
    W = torch.addcmul(W0, W0, Ad @ Au)
    return W if down is None else W.addmm_(down, up)


def _thin(wide: Float[Tensor, "n k"], narrow: Float[Tensor, "k r"]) -> Float[Tensor, "n r"]:
    """Return wide @ narrow, for few columns r: the library of the processor is slow at it, and fast at its transpose."""
    return (narrow.T @ wide.T).T
