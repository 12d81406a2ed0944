"""The search space of GLoRA: what every support tensor of every layer may be. No torch here.

A layer has five support tensors. A and B are none, a scalar, a vector or LoRA of some rank; C is none, a vector or LoRA;
D and E are none, a scalar or a vector (Eq. 11). With one rank that makes 4 * 4 * 3 * 3 * 3 = 432 choices a layer, with two
ranks 5 * 5 * 4 * 3 * 3 = 900. The layers choose independently, so 48 layers have 432 ** 48 subnets.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Protocol, runtime_checkable

TENSORS = ("A", "B", "C", "D", "E")


@runtime_checkable
class RandomSource(Protocol):
    """What sampling needs: `random.Random` and `numpy.random.Generator` both have it."""

    def random(self) -> float: ...


@dataclass(frozen=True)
class Choice:
    """The form of each support tensor of one layer: "none", "scalar", "vector" or "lora" and a rank, as in "lora8"."""

    A: str = "none"  # scales W0: W0 * A
    B: str = "none"  # shifts W0
    C: str = "none"  # shifts the bias through the weight: W0 @ C
    D: str = "none"  # scales b0: b0 * D
    E: str = "none"  # shifts b0

    def __post_init__(self):
        for tensor, form in zip(TENSORS, self.forms, strict=True):
            if not isinstance(form, str) or (form not in ("none", "scalar", "vector") and lora_rank(form) == 0):
                raise ValueError(f"{form!r} is no form of {tensor}; valid: none, scalar, vector, lora and a rank (lora8)")
            if (tensor == "C" and form == "scalar") or (tensor in "DE" and lora_rank(form)):
                raise ValueError(f"{tensor} has no form {form!r} (Eq. 11); valid: {', '.join(forms(tensor, (8,)))}")

    @property
    def forms(self) -> tuple[str, str, str, str, str]:
        """The forms of A, B, C, D and E, in this order."""
        return self.A, self.B, self.C, self.D, self.E


@lru_cache(maxsize=100_000)
def chosen(*genes: str) -> Choice:
    """Return the choice with these forms of A, B, C, D and E; the same object every time, since a search asks for millions."""
    return Choice(*genes)


Config = Mapping[str, Choice]  # layer name -> choice


def lora_rank(form: str) -> int:
    """Return the rank of a form such as "lora8", and 0 for the other forms."""
    digits = form.removeprefix("lora")
    return int(digits) if form.startswith("lora") and digits.isdecimal() and not digits.startswith("0") else 0


KINDS = {  # what a layer of each kind has; those of the paper have everything
    "linear": "ABCDE",
    "conv": "ABCDE",
    "weight": "AB",  # a linear layer or a convolution without bias that gains none
    "norm": "ABDE",  # and no LoRA: its weight is a vector
    "scale": "AB",  # a normalisation without shift that gains none
}
NO_LORA = ("norm", "scale")


def forms(tensor: str, ranks: Collection[int], kind: str = "linear") -> tuple[str, ...]:
    """Return the forms that `tensor` may take in a layer of a kind when LoRA has one of `ranks` (Eq. 11)."""
    if tensor not in KINDS[kind]:
        return ("none",)
    lora = () if kind in NO_LORA else tuple(f"lora{rank}" for rank in ranks)
    return {
        "A": (*lora, "vector", "scalar", "none"),
        "B": (*lora, "vector", "scalar", "none"),
        "C": (*lora, "vector", "none"),
        "D": ("vector", "scalar", "none"),
        "E": ("vector", "scalar", "none"),
    }[tensor]


class Space:
    """All configurations of the named layers. Draws, changes, counts, checks and writes them down.

    Args:
        layer_names: the layers; `AdaptedModel.layer_names`.
        ranks: the ranks that LoRA may have.
        kinds: layer name -> one of `KINDS`, which says what a layer may choose; `AdaptedModel.kinds`. Without it: all linear.

    Attributes:
        forms: support tensor -> what it may be in a linear layer; `forms_of` is for a layer of any kind.
    """

    def __init__(self, layer_names: Iterable[str], ranks: Iterable[int] = (8,), kinds: Mapping[str, str] | None = None):
        if isinstance(layer_names, str):
            raise ValueError(f"layer_names must be several names, as in ({layer_names!r},); got {layer_names!r}")
        self.layer_names = tuple(layer_names)
        if isinstance(ranks, int):
            raise ValueError(f"ranks must be several, as in ({ranks},); got {ranks}")
        self.ranks = tuple(ranks)
        self.kinds = {name: (kinds or {}).get(name, "linear") for name in self.layer_names}
        if not self.layer_names or len(set(self.layer_names)) < len(self.layer_names):
            raise ValueError(f"a space needs at least one layer and every name once; got {self.layer_names}")
        if not self.ranks or len(set(self.ranks)) < len(self.ranks) or min(self.ranks) < 1:
            raise ValueError(f"ranks must be different positive integers; got {self.ranks}")
        if unknown := set(self.kinds.values()) - set(KINDS):
            raise ValueError(f"unknown kinds of layers {sorted(unknown)}; valid: {', '.join(KINDS)}")
        self._forms = {kind: {tensor: forms(tensor, self.ranks, kind) for tensor in TENSORS} for kind in KINDS}
        self._options = {name: tuple(self._forms[kind].values()) for name, kind in self.kinds.items()}
        # the letters of every choice that was checked, which belongs to a layer of the kind
        self._letters: dict[str, dict[Choice, str]] = {kind: {} for kind in KINDS}
        self.forms = self._forms["linear"]

    def forms_of(self, name: str) -> dict[str, tuple[str, ...]]:
        """Return support tensor -> what it may be in the layer of that name."""
        return self._forms[self.kinds[name]]

    @property
    def per_layer(self) -> int:
        """The number of choices of one linear layer: 432 with one rank, 900 with two."""
        return prod(len(options) for options in self.forms.values())

    def count(self) -> int:
        """Return the exact number of configurations; if all layers are linear, `per_layer ** layers` (the paper: 432 x 48)."""
        return prod(len(options) for layer in self._options.values() for options in layer)

    def choices(self, kind: str = "linear") -> list[Choice]:
        """Return every choice of one layer of a kind, in a fixed order."""
        return [chosen(*genes) for genes in product(*self._forms[kind].values())]

    def sample(self, rng: RandomSource) -> dict[str, Choice]:
        """Draw every support tensor of every layer uniformly and independently, as the authors' layer does at each step."""
        return {name: chosen(*(_pick(rng, options) for options in layer)) for name, layer in self._options.items()}

    def uniform(self, choice: Choice) -> dict[str, Choice]:
        """Return the configuration in which every layer makes the same choice."""
        return self.check(dict.fromkeys(self.layer_names, choice))

    def mutate(self, config: Config, rng: RandomSource, probability: float = 0.2) -> dict[str, Choice]:
        """Return a copy in which every gene (a tensor of a layer) was drawn again with `probability`.

        The draw may give the old form again, as in the authors' code, so fewer genes change than are drawn.
        """
        return {
            name: chosen(
                *(
                    _pick(rng, options) if rng.random() < probability else form
                    for options, form in zip(layer, config[name].forms, strict=True)
                )
            )
            for name, layer in self._options.items()
        }

    def cross(self, first: Config, second: Config, rng: RandomSource) -> dict[str, Choice]:
        """Return a child that takes every gene from either parent with probability 1/2."""
        return {
            name: chosen(*(_pick(rng, pair) for pair in zip(first[name].forms, second[name].forms, strict=True)))
            for name in self.layer_names
        }

    def parameters(self, config: Config, shapes: Mapping[str, tuple[int, int]]) -> int:
        """Return how many parameters a subnet stores, head excluded; `shapes` maps a layer to (outputs d2, inputs d1).

        Counted as the authors do (evolution_utils.py): a layer without bias pays for D although D has nothing to scale.
        """
        return sum(stored(choice, *shapes[name]) for name, choice in self.check(config).items())

    def check(self, config: Config) -> Config:
        """Return `config` unchanged if it belongs to this space; else raise a ValueError that names what does not."""
        check_names(config, self.layer_names)
        for name, choice in config.items():
            if choice not in self._letters[self.kinds[name]]:
                self._spell(name, choice)
        return config

    def encode(self, config: Config) -> str:
        """Return the configuration as a short string: one letter a gene, layers in order. `decode` reads it back."""
        letters = self._letters
        return "".join(
            [letters[kind].get(config[name]) or self._spell(name, config[name]) for name, kind in self.kinds.items()]
        )

    def decode(self, key: str) -> dict[str, Choice]:
        """Return the configuration that `encode` wrote."""
        options = [options for layer in self._options.values() for options in layer]
        genes = [forms[ord(letter) - ord("a")] for forms, letter in zip(options, key, strict=True)]
        return {name: chosen(*genes[5 * place : 5 * place + 5]) for place, name in enumerate(self.layer_names)}

    def _spell(self, name: str, choice: Choice) -> str:
        """Return a choice's letters and keep them; a choice that does not belong to the space is a ValueError."""
        for (tensor, valid), form in zip(self.forms_of(name).items(), choice.forms, strict=True):
            if form not in valid:
                raise ValueError(f"unknown choice {form!r} for {tensor} of layer {name!r}; valid here: {', '.join(valid)}")
        places = (options.index(form) for options, form in zip(self._options[name], choice.forms, strict=True))
        letters = self._letters[self.kinds[name]][choice] = "".join(chr(ord("a") + place) for place in places)
        return letters


@lru_cache(maxsize=100_000)
def stored(choice: Choice, d2: int, d1: int) -> int:
    """Return how many numbers a choice stores in a layer of d2 outputs and d1 inputs, counted as `Space.parameters` does."""
    total = 0
    for tensor, form in zip(TENSORS, choice.forms, strict=True):
        rows, columns = (d1, 1) if tensor == "C" else (d2, d1)
        total += {"none": 0, "scalar": 1, "vector": rows}.get(form, lora_rank(form) * (rows + columns))
    return total


def check_names(config: Config, layer_names: Collection[str]) -> None:
    """Raise a ValueError that names the layers which `config` lacks or which the model does not have."""
    if len(config) == len(layer_names) and all(name in config for name in layer_names):
        return
    missing = [name for name in layer_names if name not in config]
    unknown = [name for name in config if name not in layer_names]
    if missing or unknown:
        raise ValueError(
            f"the configuration lacks layers {missing[:3]} ({len(missing)}) and names unknown ones {unknown[:3]} "
            f"({len(unknown)}); it needs each of the {len(layer_names)} layers once, such as {list(layer_names)[:2]}"
        )


def to_json(config: Config) -> dict[str, dict[str, str]]:
    """Return the configuration as plain JSON types."""
    return {name: dict(zip(TENSORS, choice.forms, strict=True)) for name, choice in config.items()}


def from_json(data: Mapping[str, Mapping[str, str]]) -> dict[str, Choice]:
    """Return the configuration that `to_json` wrote; a ValueError names a tensor or a form that does not exist."""
    for name, forms_by_tensor in data.items():
        if unknown := set(forms_by_tensor) - set(TENSORS):
            raise ValueError(f"layer {name!r} has unknown tensors {unknown}; valid: {TENSORS}")
    return {name: Choice(**forms_by_tensor) for name, forms_by_tensor in data.items()}


def _pick(rng: RandomSource, options):
    return options[int(rng.random() * len(options))]
