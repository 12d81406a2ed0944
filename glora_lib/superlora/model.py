"""A model whose weights are W0 + dW, with dW formed from the groups at each call, and the plain model that it can become."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from glora_lib.glora.fusable import Fusable
from glora_lib.superlora.grouping import Grouping


class Group(nn.Module):
    """One group: its unit, the projection behind it, and how many of the unit's numbers it takes."""

    def __init__(self, unit: nn.Module, projection: nn.Module, numbers: int):
        super().__init__()
        self.unit, self.projection, self.numbers = unit, projection, numbers

    def forward(self) -> Tensor:
        """Return the group's vector."""
        return self.projection(self.unit().reshape(-1)[: self.numbers])


class SuperLoRAModel(Fusable):
    """A frozen model with trained groups, called like the model.

    Attributes:
        model: the model itself, whose own weights stay W0.
        groups: the trained groups, shared by all weights.
        grouping: which numbers of which weights each of them has.
        scale: what the groups are multiplied with.
    """

    def __init__(self, model: nn.Module, grouping: Grouping, groups: Sequence[Group], scale: float = 1.0):
        super().__init__()
        self.model, self.grouping, self.groups, self.scale = model, grouping, nn.ModuleList(groups), scale

    def changes(self) -> list[Tensor]:
        """Return dW of every part, in order and in its shape, the scale included."""
        changes = self.grouping.scatter([group() for group in self.groups])
        return changes if self.scale == 1 else [self.scale * change for change in changes]

    def weights(self) -> dict[str, Tensor]:
        """Return W0 + dW of every weight that has an adapted part, by the name of the parameter."""
        weights = {}
        for part, change in zip(self.grouping.parts, self.changes(), strict=True):
            name = f"{part.module}.weight"
            weight = weights.get(name, self.model.get_parameter(name))
            start, stop = part.rows or (0, weight.shape[part.axis])
            before, own, after = weight.tensor_split((start, stop), dim=part.axis)
            weights[name] = torch.cat([before, own + change, after], dim=part.axis)
        return weights

    def forward(self, *args, **kwargs):
        """Raise a ValueError for gradient checkpointing: a block that is computed again would find its own weights, W0."""
        if torch.is_grad_enabled() and (names := _checkpointed(self.model)):
            raise ValueError(
                f"{names[0]} keeps no activations but is computed again in the backward pass, without the changed weights; "
                "turn gradient checkpointing off"
            )
        place = next(self.groups.parameters()).device.type
        with torch.autocast("cpu" if place == "meta" else place, enabled=False):  # operations are counted without numbers
            weights = self.weights()  # in the precision of W0, whatever the model computes in
        return functional_call(self.model, weights, args, kwargs)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Return a copy of the plain model with these weights; everything in it can be trained."""
        plain = copy.deepcopy(self.model)
        for name, weight in self.weights().items():
            plain.get_parameter(name).copy_(weight)
        return plain.requires_grad_(True)

    def report(self) -> list[dict]:
        """Return a row a group: numbers (of the weights), unit (its numbers), padding and trained parameters.

        Padding is what belongs to no weight: at the end of the last of G groups, and where a tensor is larger than its group.
        """
        rows = []
        for stretch, group in zip(self.grouping.stretches, self.groups, strict=True):
            with torch.no_grad():
                places = group.unit().numel()
            rows.append(
                {
                    "numbers": stretch.stop - stretch.start,
                    "unit": places,
                    "padding": stretch.padding + places - group.numbers,
                    "parameters": sum(p.numel() for p in group.parameters()),
                }
            )
        return rows


def _checkpointed(model: nn.Module) -> list[str]:
    """Return the modules whose gradient checkpointing is on, as timm's and transformers' models say it."""
    flags = ("grad_checkpointing", "gradient_checkpointing")
    return [name or type(m).__name__ for name, m in model.named_modules() if any(getattr(m, flag, False) for flag in flags)]


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of the weight of every module that has one of two dimensions or more, by the module's name."""
    found = {name: getattr(module, "weight", None) for name, module in model.named_modules()}
    return {name: tuple(w.shape) for name, w in found.items() if isinstance(w, Tensor) and w.ndim > 1}
