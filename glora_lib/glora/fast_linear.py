"""The GLoRA layer with a hand-written backward pass. A reader may skip it: its values are the plain formula's.

Training the plain formula forms the dense gradient of the effective weight, (d2, d1), a third of all multiplications of a step,
and walks over weight-sized arrays about ten times. Only A as LoRA needs that gradient, and is left to autograd. Otherwise it is

    y = gain * (x W0^T) + (x up^T) down^T + bias        gain (d2), down (d2, r), up (r, d1)

and the gradients of gain, down, up and bias come from products with r columns. B as a vector is down with up = 1, r = 1.

Four things make it cheap: with more rows of x than columns the parts are folded into a weight, which is the smaller array, and
with fewer a gain scales the output; products with few columns are computed transposed, which is several times as fast on a
processor; a gain that is one number for all rows finds its gradient in that of x; and one product gives the gradients of down
and bias.
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
    # shaped out here: an array that a Function returns as a view must not be changed in place, as an activation may
    return _ScaledRows.apply(x, W0, gain, down, up, bias).view(*x.shape[:-1], W0.shape[0])


class _ScaledRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, W0, gain, down, up, bias):
        rows = x.reshape(-1, x.shape[-1])
        ctx.folded = len(rows) >= W0.shape[1]
        # the gradient of a gain that differs from row to row needs x W0^T; a common one does without if x has a gradient
        keep = gain is not None and ctx.needs_input_grad[2] and not (len(gain) == 1 and ctx.needs_input_grad[0])
        plain = None
        if ctx.folded and not keep:
            y = _affine(rows, _folded(W0, gain, down, up), bias)
        elif gain is None:
            y = _affine(rows, W0, bias)
        else:
            plain = rows @ W0.T
            y = plain * gain if bias is None else torch.addcmul(bias, plain, gain)
        if down is not None and (keep or not ctx.folded):
            y.addmm_(_thin(rows, up.T), down.T)
        ctx.save_for_backward(rows, W0, gain, down, up, plain if keep else None)
        ctx.shape = x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        rows, W0, gain, down, up, plain = ctx.saved_tensors
        need_x, _, need_gain, need_down, need_up, need_bias = ctx.needs_input_grad
        dy = dy.reshape(-1, W0.shape[0])
        dx = dgain = None
        if plain is not None:
            dgain = torch.linalg.vecdot(dy, plain, dim=0).sum_to_size(gain.shape)
        common = need_gain and plain is None  # one gain for all rows: its gradient comes through that of x
        folded = ctx.folded and not common
        dy_down = _thin(dy, down) if need_up or (need_x and down is not None and not folded) else None
        if need_x:
            scaled = dy if gain is None or common or folded else dy * gain
            dx = scaled @ (_folded(W0, gain, down, up) if folded else W0)
            if common:
                dgain = torch.linalg.vecdot(rows.flatten(), dx.flatten()).reshape(1)
                dx *= gain
            if down is not None and not folded:
                dx.addmm_(dy_down, up)
        dup = dy_down.T @ rows if need_up else None
        ddown, dbias = _column_gradients(dy, rows, up, need_down, need_bias)
        return dx.view(ctx.shape) if need_x else None, None, dgain, ddown, dup, dbias


def _affine(rows: Float[Tensor, "n d1"], W: Float[Tensor, "d2 d1"], bias: Tensor | None) -> Float[Tensor, "n d2"]:
    return rows @ W.T if bias is None else torch.addmm(bias, rows, W.T)


def _folded(W0: Tensor, gain: Tensor | None, down: Tensor | None, up: Tensor | None) -> Float[Tensor, "d2 d1"]:
    """Return the weight of the whole layer, gain * W0 + down up; W0 itself where it has no parts."""
    W = W0 if gain is None else W0 * gain[:, None]
    if down is None:
        return W
    return torch.addmm(W, down, up) if W is W0 else W.addmm_(down, up)


def _column_gradients(dy, rows, up, need_down: bool, need_bias: bool) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of down and bias, from one walk over dy: a bias is a column of down whose up gives 1."""
    if not need_down:
        return None, dy.sum(0) if need_bias else None
    factors = _thin(rows, up.T).T  # (r, n)
    if not need_bias:
        return (factors @ dy).T, None
    both = torch.cat([factors, factors.new_ones(1, len(rows))]) @ dy
    return both[:-1].T, both[-1]


def _thin(wide: Float[Tensor, "n k"], narrow: Float[Tensor, "k r"]) -> Float[Tensor, "n r"]:
    """Return wide @ narrow, for few columns r: the library of the processor is slow at it, and fast at its transpose."""
    return (narrow.T @ wide.T).T
