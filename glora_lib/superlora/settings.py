"""SuperLoRA's hyper-parameters (Table 2), and by name the rows of its Table 1 that they stand for.

dW_group = F( kron over k = 1..K of ( C_k x_1 A_k1 x_2 ... x_M A_kM ) )                                        (Eq. 2)

net = SuperLoRA.lorta(r=4, order=3, groups=1).adapt(model, queries_and_values(shapes_of(model)))
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, prod

from torch import Tensor, nn

from glora_lib.glora.layer import check_whole
from glora_lib.glora.plain import as_names, matches, refuse_adapted, refuse_computed, warn_headless
from glora_lib.superlora import units
from glora_lib.superlora.fold import exact, fold, given
from glora_lib.superlora.grouping import Grouping, Part, Stretch
from glora_lib.superlora.model import Group, SuperLoRAModel, shapes_of
from glora_lib.superlora.projection import projection
from glora_lib.training.head import head_of

Shape = str | tuple[int, ...] | list[int]  # a list is what JSON gives


@dataclass(frozen=True)
class SuperLoRA:
    """One setting. The presets below name those of the paper's Table 1; every field can be set by hand as well.

    Raises ValueError at once for what no group could have; what depends on the weights, `adapt` and `sides` raise.
    """

    order: int = 2  # M, modes of a group's tensor; 1: free numbers
    r: int | None = 8  # rank of every mode; None: no factors (the dense last factor of a Kronecker product, or M = 1)
    core: str = "identity"  # C: "identity", "free" (r^M numbers), "matrices" (one r x r matrix a weight, as LoTR)
    splits: int = 1  # K, factors of a Kronecker product
    side: int | None = None  # of its square left factors; None: that which makes two factors as equal as can be
    left_r: int | None = None  # rank of the left factors; None: dense
    hadamard: bool = False  # the elementwise product of two units, which Eq. 2 does not have
    groups: int | str = "weight"  # G, or "weight", "layer"
    shape: Shape = "stack"  # of a group: "stack" (weights under each other), "fold" (square, cubic), or its sides
    projection: str = "identity"  # F: "identity", "shuffle", "fastfood"
    ratio: float = 1.0  # rho, numbers before F for each after it
    seed: int | None = None  # of F; group g takes seed + g
    scale: float = 1.0  # before dW; LoRA's alpha / r

    def __post_init__(self):
        for name in ("order", "splits"):
            check_whole(getattr(self, name), name)
        for name in ("r", "side", "left_r", "seed"):
            if getattr(self, name) is not None:
                check_whole(getattr(self, name), name, least=None if name == "seed" else 1)
        for name in ("ratio", "scale"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise ValueError(f"{name} must be a finite number, not {value!r}")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio {self.ratio} is not in (0, 1]")
        if self.ratio < 1 and self.projection != "fastfood":
            raise ValueError(f"a ratio of {self.ratio} needs the projection 'fastfood', not {self.projection!r}")
        if self.ratio < 1 and self.order > 1 and self.shape == "stack":
            raise ValueError(f"a ratio of {self.ratio} leaves no weight its own shape; set shape='fold'")
        if self.projection != "identity" and self.seed is None:
            raise ValueError(f"the projection {self.projection!r} has no seed, without which it is lost; give seed=0")
        if isinstance(self.groups, str) and self.groups not in ("weight", "layer"):
            raise ValueError(f"groups {self.groups!r} is not known; valid: weight, layer, or how many")
        if self.core not in ("identity", "free", "matrices"):
            raise ValueError(f"core {self.core!r} is not known; valid: identity, free, matrices")
        if isinstance(self.shape, list):
            object.__setattr__(self, "shape", tuple(self.shape))
        if isinstance(self.shape, str) and self.shape not in ("stack", "fold"):
            raise ValueError(f"shape {self.shape!r} is not known; valid: stack, fold, or the sides of a group")

    # Table 1, row by row

    @classmethod
    def dense(cls, groups: int | str = "weight", **options) -> "SuperLoRA":
        """Return F = I, M = 1: full fine-tuning of the weights; with F and `ratio`, their projection from fewer numbers."""
        return cls(order=1, r=None, groups=groups, **options)

    @classmethod
    def lora(cls, r: int = 8, groups: int | str = "weight", **options) -> "SuperLoRA":
        """Return M = 2, C = I: LoRA weight by weight; with other groups the paper's "2D", `shape="fold"` its reshaping."""
        return cls(r=r, groups=groups, **options)

    @classmethod
    def loha(cls, r: int = 4, groups: int | str = "weight", **options) -> "SuperLoRA":
        """Return LoHa, the product of two LoRA element by element: named by the paper, in Eq. 2 only with more parameters."""
        return cls(r=r, groups=groups, hadamard=True, **options)

    @classmethod
    def lokr(cls, r: int | None = 4, groups: int | str = "weight", splits: int = 2, **options) -> "SuperLoRA":
        """Return K = 2, M = 2: LoKr, a dense left factor and a right one of rank `r`, dense where r is half its side.

        A deviation from Table 1, by which the left factor is A B^T too; dense as in Sec. 4.2.3 and in the paper of LoKr.
        """
        return cls(r=r, groups=groups, splits=splits, **options)

    @classmethod
    def lonkr(cls, r: int | None = 4, splits: int = 3, side: int | None = 8, groups: int | str = 1, **options) -> "SuperLoRA":
        """Return K > 2, M = 2, group-wise: LoNKr, square dense left factors of `side` (6, 8 or 10 in the paper)."""
        options = {"shape": "fold"} | options
        return cls(r=r, groups=groups, splits=splits, side=side, **options)

    @classmethod
    def lotr(cls, r: int = 8, groups: int | str = 1, **options) -> "SuperLoRA":
        """Return G = 1, M = 3: LoTR, U C_i V for each weight with U and V shared; its authors divide by r, so does `scale`."""
        options = {"scale": 1 / r if isinstance(r, int) and r else 1.0} | options
        return cls(order=3, r=r, core="matrices", groups=groups, **options)

    @classmethod
    def lorta(cls, r: int = 4, order: int = 3, groups: int | str = 1, core: str = "free", **options) -> "SuperLoRA":
        """Return K = 1, M > 2: LoRTA, Tucker's form of the folded group; `core="identity"` is CP's."""
        options = {"shape": "fold"} | options
        return cls(order=order, r=r, core=core, groups=groups, **options)

    # what a group becomes

    def numbers(self, group: Stretch) -> int:
        """Return m, how many numbers of the unit F gets for a group."""
        return ceil(self.ratio * group.size)

    def sides(self, group: Stretch) -> tuple[int, ...]:
        """Return the sides of a group's tensor; their product is `numbers`, or more where that does not factor.

        Raises ValueError where the group has no such shape.
        """
        numbers = self.numbers(group)
        if self.order == 1:
            return (numbers,)
        if self.core == "matrices":
            if len(set(group.shapes)) != 1 or len(group.shapes[0]) != 2:
                raise ValueError(f"LoTR shares its factors between equal matrices; this group has {_listed(group)}")
            return (len(group.shapes), *group.shapes[0])
        if not isinstance(self.shape, str):
            sides = given(self.shape, numbers)
        elif self.shape == "stack":
            sides = _stacked(group)
        else:
            sides = fold(numbers, self.order)
        if len(sides) != self.order:
            modes = f"the shape {sides} has {len(sides)} modes, the order is {self.order}"
            raise ValueError(f"{modes}; set shape='fold' or name {self.order} sides")
        if self.splits > 1:  # rounded up to what the left factors divide
            inner = [prod(outer) for outer in zip(*self.splits_of(sides)[:-1], strict=True)]
            sides = tuple(ceil(side / by) * by for side, by in zip(sides, inner, strict=True))
        return sides

    def splits_of(self, sides: Sequence[int]) -> list[tuple[int, int]]:
        """Return (rows, columns) of the K factors of a Kronecker product; the last one is rounded up."""
        if self.side is None:
            if self.splits != 2:
                raise ValueError(f"{self.splits} splits need the side of their left factors, as side=8")
            left = [tuple(exact(side, 2)[0] for side in sides)]
        else:
            left = [(self.side, self.side)] * (self.splits - 1)
        inner = [prod(outer) for outer in zip(*left, strict=True)]
        if any(by > side for by, side in zip(inner, sides, strict=True)):
            what = f"{self.splits} splits of side {self.side}"
            raise ValueError(f"{what} do not fit the shape {tuple(sides)}; take fewer or smaller ones")
        return [*left, tuple(ceil(side / by) for side, by in zip(sides, inner, strict=True))]

    def last_rank(self, sides: tuple[int, int]) -> int | None:
        """Return the rank of a Kronecker product's last factor, None for a dense one, by LyCORIS' rule."""
        return None if self.r is None or self.r >= max(sides) / 2 else self.r

    def unit(self, group: Stretch, like: Tensor) -> nn.Module:
        """Return the module that a group's tensor comes from, zero at first."""
        sides = self.sides(group)
        if self.order == 1:
            return units.Dense(sides, like)
        if self.splits > 1:
            factors = self.splits_of(sides)
            return units.kronecker(factors, self.last_rank(factors[-1]), self.left_r, like)
        make = {"free": units.lorta, "matrices": units.lotr, "identity": units.loha if self.hadamard else units.lora}[self.core]
        return make(sides, self.r, like)

    def on(self, model: nn.Module, parts: Sequence[Part]) -> SuperLoRAModel:
        """Return `model` with these parts of its weights changed as this setting says, by nothing at first; nothing is frozen.

        Raises ValueError for a part that the model has not, for a group that cannot have this setting's shape or rank, for a
        model that is adapted already, and for a layer that computes its weight or shares it with another.
        """
        refuse_adapted(model)
        grouping = Grouping(parts, shapes_of(model), self.groups)
        changed = {part.module: model.get_submodule(part.module) for part in grouping.parts}
        refuse_computed(changed)
        for name, module in changed.items():
            others = [other for other, m in model.named_modules() if any(p is module.weight for p in m._parameters.values())]
            if len(others) > 1:
                raise ValueError(f"{' and '.join(others)} share one weight, which cannot be changed for {name!r} alone")
        like = model.get_submodule(grouping.parts[0].module).weight.detach()
        made = []
        for number, group in enumerate(grouping.stretches):
            seed = None if self.seed is None else self.seed + number
            F = projection(self.projection, self.numbers(group), group.size, seed, like)
            made.append(Group(self.unit(group, like), F, self.numbers(group)))
        return SuperLoRAModel(model, grouping, made, self.scale)

    def adapt(self, model: nn.Module, parts: Sequence[Part], train: str | Collection[str] | None = None) -> SuperLoRAModel:
        """Return what `on` does, with the model frozen.

        Args:
            parts: what is adapted, in order; `queries_and_values` finds those of the paper.
            train: names of modules that are trained whole, whole names or last parts; by default the head, by
                `training.head.head_of`. A UserWarning says where there is none; () is for training nothing whole.
        """
        if train is None:
            whole = list(head_of(model).values())
            if not whole:
                warn_headless(model, stacklevel=3)
        else:
            names = as_names(train, model)
            whole = [module for name, module in model.named_modules() if name and matches(name, names)]
        net = self.on(model, parts)
        model.requires_grad_(False)
        for module in whole:
            module.requires_grad_(True)
        return net


PRESETS = {name: getattr(SuperLoRA, name) for name in ("dense", "lora", "loha", "lokr", "lonkr", "lotr", "lorta")}


def _stacked(group: Stretch) -> tuple[int, int]:
    """Return (rows, columns) of a group's weights under each other, each with all but its first side flattened."""
    widths = {prod(shape[1:]) for shape in group.shapes}
    if len(widths) != 1 or group.padding:
        raise ValueError(f"a group stacks weights of one width, this one has {_listed(group)}; set shape='fold'")
    width = widths.pop()
    return group.size // width, width


def _listed(group: Stretch) -> str:
    return ", ".join(" x ".join(map(str, shape)) for shape in dict.fromkeys(group.shapes)) or "a border inside a weight"
