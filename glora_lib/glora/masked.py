"""Configurations as masks: many subnets of GLoRA's linear layers in the same kernels, without a branch on their forms.

A choice is a number, its place in `Space.choices()`, and a row of masks: for A, B and C which columns of Xd and rows of Xu
take part (LoRA of rank r: the first r), and whether Xd's first column or first number is broadcast; for D and E whether the
vector or its first number is used. Broadcasting is a product with a row of ones, so that each of A and B is one product:

    A = [Xd * ranks, vector * Xd[:, 0] + scalar * Xd[0, 0]] [Xu; 1]

The values are `GLoRALinear`'s in every choice.
"""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.space import TENSORS, Choice, Config, Space, lora_rank

STORAGE = ("Ad", "Au", "Bd", "Bu", "Cd", "Cu", "D", "E")


class Masks:
    """The masks of a space's choices for the layers of several models, `training.many.Choices`.

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
        """Return a layer that reads its masks; None for a module that is no adapted layer."""
        if not isinstance(module, GLoRALinear):
            return None
        place = self.layers[name]

        def masked(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
            """x (runs, images, ..., d1) -> (runs, images, ..., d2)."""
            return linear(module, tensors, x, self.masks[:, place])

        return masked


def linear(layer: GLoRALinear, tensors: Mapping[str, Tensor], x: Tensor, masks: Tensor) -> Tensor:
    """Return what a layer makes of x (runs, images, ..., d1) in the configuration of each run, masks (runs, 3 rank + 9)."""
    W, b = effective(layer, tensors, masks, _dtype(x))
    rows = x.flatten(1, -2).to(W.dtype)  # (runs, n, d1)
    with torch.autocast(x.device.type, enabled=False):
        y = torch.bmm(rows, W.mT) if b is None else torch.baddbmm(b[:, None], rows, W.mT)
    return y.unflatten(1, x.shape[1:-1])


def effective(
    layer: GLoRALinear, tensors: Mapping[str, Tensor], masks: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Return the weights (runs, d2, d1) and biases (runs, d2) in `dtype`; tensors (runs, ...), or (1, ...) where runs share."""
    rank, d1 = layer.rank, layer.W0.shape[1]
    W0 = layer.W0.to(dtype)
    masks = masks.to(tensors["Ad"].dtype)
    parts = masks.split([rank + 2, rank + 2, rank + 1, 2, 2], dim=1)
    with torch.autocast(W0.device.type, enabled=False):
        factors = []
        for tensor, part, scale in (("A", parts[0], 1.0), ("B", parts[1], 1 / d1 if layer.scale_broadcast else 1.0)):
            down, up = tensors[f"{tensor}d"], tensors[f"{tensor}u"]
            broadcast = part[:, None, rank, None] * down[..., :1] + part[:, None, rank + 1, None] * down[:, :1, :1]
            down = torch.cat([down * part[:, None, :rank], broadcast * scale], dim=2).to(dtype)  # (runs, d2, rank + 1)
            up = torch.cat([up, torch.ones_like(up[:, :1])], dim=1).to(dtype)  # (runs or 1, rank + 1, d1)
            factors.append((down, up.expand(len(down), -1, -1)))
        (Ad, Au), (Bd, Bu) = factors
        W = torch.baddbmm(W0.expand(len(Bd), -1, -1), Bd, Bu)  # W0 + B
        W = torch.addcmul(W, W0, torch.bmm(Ad, Au))  # + W0 * A
        Cd, Cu, part = tensors["Cd"], tensors["Cu"], parts[2]
        C = (Cd * part[:, None, :rank]) @ Cu + part[:, None, rank, None] * Cd[..., :1]  # (runs, d1, 1)
        b = (layer.W0.to(C.dtype) @ C).squeeze(-1)  # (runs, d2)
        if layer.b0 is not None:
            b = b + layer.b0 + layer.b0 * _vector(tensors["D"], parts[3])
        b = b + _vector(tensors["E"], parts[4])
    return W, b.to(dtype)


def _vector(tensor: Tensor, part: Tensor) -> Tensor:
    """Return a tensor (runs, d2) as it is, or its first number broadcast, or zero."""
    return part[:, :1] * tensor + part[:, 1:] * tensor[:, :1]


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
