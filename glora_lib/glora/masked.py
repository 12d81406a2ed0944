"""Configurations as masks: many subnets of GLoRA's linear layers in the same kernels, without a branch on their forms.

A choice is a number, its place in `Space.choices()`, and a row of masks: for A, B and C which columns of Xd and rows of Xu
take part (LoRA of rank r: the first r), and whether Xd's first column or first number is broadcast; for D and E whether the
vector or its first number is used. Broadcasting is a product with a row of ones, so that each of A and B is one product:

    A = [Xd * ranks, vector * Xd[:, 0] + scalar * Xd[0, 0]] [Xu; 1]

with further columns of zeros, so that their number is one that a GPU's products are fast with.

The values are `GLoRALinear`'s in every choice.
"""

import random
from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.space import TENSORS, Choice, Config, Space, lora_rank
from glora_lib.training.fused import fused
from glora_lib.training.stacked import Unsuited

ALIGNED = 8  # numbers of two bytes, which a GPU reads as one
STORAGE = ("Ad", "Au", "Bd", "Bu", "Cd", "Cu", "D", "E")


class Masks:
    """The masks of a space's choices for the layers of several models, `training.choices.Choices`.

    Args:
        space: of layers that are `GLoRALinear` in the models.
        rank: the rank of the layers' storage.
        prefix: what comes before a layer's name in the models ("model." in an `AdaptedModel`).
    """

    def __init__(self, space: Space, rank: int, device: torch.device, prefix: str = "model."):
        self.space, self.rank = space, rank
        choices = space.choices()
        self.numbers = {choice: number for number, choice in enumerate(choices)}
        self.table = torch.tensor([_row(choice, rank) for choice in choices], device=device)  # (choices, 3 rank + 9)
        self.uses = torch.tensor([_used(choice) for choice in choices], device=device)  # (choices, 8) bool
        self.layers = {f"{prefix}{name}": place for place, name in enumerate(space.layer_names)}
        self.masks: Tensor | None = None  # (runs, layers, 3 rank + 9)
        self.groups: dict[tuple, _Group] = {}  # by the shape of their weights
        self.weights: dict[str, tuple[Tensor, Tensor]] = {}  # of each layer while they are formed
        self.columns: tuple | None = None  # which layer and which of its tensors the names that were asked for are

    def codes(self, config: Config) -> list[int]:
        """Return the numbers of a configuration's choices, in the space's order of layers."""
        return [self.numbers[config[name]] for name in self.space.layer_names]

    def sample(self, draw: random.Random) -> list[int]:
        """Draw a configuration as `Space.sample` does."""
        return self.codes(self.space.sample(draw))

    def set(self, codes: Tensor) -> None:
        """Choose a configuration for each run: codes (runs, layers)."""
        self.masks = self.table[codes]

    def sampled(self, codes: Tensor, names: Sequence[str]) -> Tensor:
        """Return which tensors the configurations use, bool (runs, tensors); what is no support tensor is always used."""
        if self.columns is None or self.columns[0] != names:
            parts = [name.rpartition(".") for name in names]
            support = [layer in self.layers and tensor in STORAGE for layer, _, tensor in parts]
            places = [self.layers[p[0]] if own else 0 for p, own in zip(parts, support, strict=True)]
            kinds = [STORAGE.index(p[2]) if own else 0 for p, own in zip(parts, support, strict=True)]
            self.columns = (names, *(torch.tensor(values, device=codes.device) for values in (places, kinds, support)))
        _, places, kinds, support = self.columns
        return self.uses[codes][:, places, kinds] | ~support

    def form(self, module: nn.Module, name: str):
        """Return a layer that has the weights of the masks within `formed`; None for a module that is no adapted layer.

        Raises Unsuited for a layer that has no masks: a convolution, a normalisation, one that gains no bias.
        """
        if not isinstance(module, GLoRALinear):
            return None
        if module.kind != "linear":
            raise Unsuited(f"layer {name!r} is of the kind {module.kind!r}; only linear layers have masks")
        key = (module.W0.shape, module.b0 is None, module.scale_broadcast)
        self.groups.setdefault(key, _Group()).add(name, module, self.layers[name])

        def masked(_, x: Tensor) -> Tensor:
            """x (runs, images, ..., d1) -> (runs, images, ..., d2)."""
            return linear(x, *self.weights[name])

        return masked

    @contextmanager
    def formed(self, tensors: Mapping[str, Tensor]):
        """While it lasts, the layers have the weights that these tensors give, (runs, ...), or (1, ...) where runs share them.

        All layers of one shape are formed at once: their tensors are small, and a GPU takes as long for one as for twelve.
        """
        dtype = _dtype(next(iter(tensors.values())))
        for group in self.groups.values():
            self.weights |= group.effective(tensors, self.masks, dtype)
        try:
            yield
        finally:
            self.weights.clear()


class _Group:
    """Layers whose weights have one shape, all with a bias or all without, and one scale of B."""

    def __init__(self):
        self.names: list[str] = []
        self.layers: list[GLoRALinear] = []
        self.places: list[int] = []  # in the space's order
        # made once, by the first step: a graph can make no tensor from numbers
        self.index: Tensor | None = None  # the places
        self.frozen: dict[torch.dtype, Tensor] = {}  # W0 of all, (layers, d2, d1), by dtype

    def add(self, name: str, layer: GLoRALinear, place: int) -> None:
        self.names.append(name)
        self.layers.append(layer)
        self.places.append(place)

    def effective(self, tensors: Mapping[str, Tensor], masks: Tensor, dtype: torch.dtype) -> dict[str, tuple]:
        """Return name of a layer -> its weights (runs, d2, d1) and biases (runs, d2); `masks` are those of the whole space."""
        first = self.layers[0]
        if self.index is None:
            self.index = torch.tensor(self.places, device=masks.device)
        kinds = [kind for kind in STORAGE if kind != "D" or first.b0 is not None]
        tensors = {kind: torch.stack([tensors[f"{name}.{kind}"] for name in self.names], dim=1) for kind in kinds}
        for needed in {dtype, tensors["Ad"].dtype} - self.frozen.keys():
            self.frozen[needed] = torch.stack([layer.W0 for layer in self.layers]).to(needed)
        b0 = None if first.b0 is None else torch.stack([layer.b0 for layer in self.layers])
        scale = 1 / first.W0.shape[1] if first.scale_broadcast else 1.0
        W, b = effective(self.frozen[dtype], self.frozen[tensors["Ad"].dtype], b0, scale, tensors, masks[:, self.index])
        return {name: (W, b) for name, W, b in zip(self.names, W.unbind(1), b.unbind(1), strict=True)}


def linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Return x (runs, images, ..., d1) through a layer of each run, weights (runs, d2, d1) and biases (runs, d2)."""
    with torch.autocast(x.device.type, enabled=False):
        y = _Linear.apply(x.flatten(1, -2).to(W.dtype), W, b)
    return y.unflatten(1, x.shape[1:-1])


class _Linear(torch.autograd.Function):
    """rows (runs, n, d1), W (runs, d2, d1), b (runs, d2) -> (runs, n, d2).

    Run by run: one product adds its bias itself, a batch of products has it written out to the size of the result first.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, W: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(rows, W)
        y = rows.new_empty(*rows.shape[:2], W.shape[1])
        for parts in zip(b, rows, W.mT, y, strict=True):
            torch.addmm(*parts[:3], out=parts[3])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, W = ctx.saved_tensors
        need_rows, need_W, need_b = ctx.needs_input_grad
        return dy @ W if need_rows else None, dy.mT @ rows if need_W else None, dy.sum(1) if need_b else None


def effective(
    W0: Tensor, exact: Tensor, b0: Tensor | None, scale: float, tensors: Mapping[str, Tensor], masks: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the weights (runs, layers, d2, d1) and biases (runs, layers, d2) of layers of one shape, in the dtype of W0.

    Args:
        W0: the frozen weights (layers, d2, d1), in the dtype that the layers compute in.
        exact: the same in the dtype of the tensors, from which W0 C is computed.
        b0: the frozen biases (layers, d2), if there are any.
        scale: of B where it is broadcast.
        tensors: name in storage -> (runs, layers, ...), or (1, layers, ...) where runs share them.
        masks: (runs, layers, 3 rank + 9).
    """
    rank = tensors["Ad"].shape[-1]
    masks = masks.to(exact.dtype)[:, :, None]  # (runs, layers, 1, 3 rank + 9)
    parts = masks.split([rank + 2, rank + 2, rank + 1, 2, 2], dim=-1)

    def product(tensor: str, part: Tensor, scale: float) -> Tensor:
        down, up = tensors[f"{tensor}d"], tensors[f"{tensor}u"]
        broadcast = part[..., rank:-1] * down[..., :1] + part[..., -1:] * down[..., :1, :1]
        broadcast = broadcast if scale == 1 else broadcast * scale
        spare = -(rank + 1) % ALIGNED
        down = F.pad(torch.cat([down * part[..., :rank], broadcast], dim=-1).to(W0.dtype), (0, spare))  # (runs, layers, d2, r)
        up = torch.cat([up, torch.ones_like(up[..., :1, :])], dim=-2).to(W0.dtype)
        return down @ F.pad(up, (0, 0, 0, spare))  # (runs or 1, layers, r, d1)

    with torch.autocast(W0.device.type, enabled=False):
        A, B = product("A", parts[0], 1.0), product("B", parts[1], scale)
        W = _combined(A.flatten(1), B.flatten(1), W0.flatten()[None]).view_as(A)
        C = (tensors["Cd"] * parts[2][..., :rank]) @ tensors["Cu"] + parts[2][..., rank:] * tensors["Cd"][..., :1]
        b = torch.bmm(exact, C.squeeze(-1).permute(1, 2, 0)).permute(2, 0, 1)  # W0 C, (runs, layers, d2)
        if b0 is not None:
            b = b + b0 + b0 * _vector(tensors["D"], parts[3])
        b = b + _vector(tensors["E"], parts[4])
    return W, b.to(W0.dtype).contiguous()  # a GPU's product adds a bias itself only where it lies in one piece


@fused
def _combined(A: Tensor, B: Tensor, W0: Tensor) -> Tensor:
    """Return W0 + W0 * A + B, all (runs, numbers), W0 (1, numbers)."""
    return torch.addcmul(W0 + B, W0, A)


def _vector(tensor: Tensor, part: Tensor) -> Tensor:
    """Return tensors (runs, layers, d2) as they are, or their first number broadcast, or zero; part (runs, layers, 1, 2)."""
    return part[..., 0, :1] * tensor + part[..., 0, 1:] * tensor[..., :1]


def _dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _row(choice: Choice, rank: int) -> list[float]:
    row: list[float] = []
    for tensor, form in zip(TENSORS, choice.forms, strict=True):
        if tensor in "ABC":
            row += [float(place < lora_rank(form)) for place in range(rank)]
        row.append(float(form == "vector"))
        if tensor != "C":
            row.append(float(form == "scalar"))
    return row


def _used(choice: Choice) -> list[bool]:
    used: list[bool] = []
    for tensor, form in zip(TENSORS, choice.forms, strict=True):
        used += [form != "none", lora_rank(form) > 0] if tensor in "ABC" else [form != "none"]
    return used
