"""Where configurations put their parameters and which forms they choose, against what random ones would show."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd
from scipy.stats import binom

from glora_lib.glora.space import TENSORS, Config, Space


def kind(layer_name: str) -> str:
    """Return what a layer is in its block: "attn.qkv" for "blocks.3.attn.qkv"."""
    return ".".join(layer_name.split(".")[-2:])


def parameters_by_kind(config: Config, shapes: Mapping[str, tuple[int, int]], space: Space) -> dict[str, int]:
    """Return kind of layer -> parameters that the configuration stores there (Fig. 3 of the paper), head excluded."""
    counts = Counter(dict.fromkeys(map(kind, space.layer_names), 0))
    for name in space.layer_names:
        counts[kind(name)] += Space((name,), space.ranks).parameters({name: config[name]}, shapes)
    return dict(counts)


def random_parameters_by_kind(
    shapes: Mapping[str, tuple[int, int]], space: Space, draws: int = 500, seed: int = 0
) -> pd.DataFrame:
    """Return kind, mean, low, high: the mean over random configurations and between what 95 % of them lie."""
    rng = random.Random(seed)
    table = pd.DataFrame([parameters_by_kind(space.sample(rng), shapes, space) for _ in range(draws)])
    quantiles = table.quantile([0.025, 0.975])
    return (
        pd.DataFrame({"mean": table.mean(), "low": quantiles.iloc[0], "high": quantiles.iloc[1]})
        .rename_axis("kind")
        .reset_index()
    )


def frequencies(configs: Sequence[Config], space: Space, confidence: float = 0.95) -> pd.DataFrame:
    """Return how often each form of each support tensor was chosen over all layers of all configurations.

    Columns: tensor, form, share; expected, what uniform draws give; low and high, between which the share lies in that share of
    samples of as many random genes; n genes; outside, whether the share lies elsewhere.
    """
    rows = []
    for tensor in TENSORS:
        forms = space.forms[tensor]
        counts = Counter(getattr(choice, tensor) for config in configs for choice in config.values())
        n = counts.total()
        for form in forms:
            low, high = (
                binom.ppf([(1 - confidence) / 2, (1 + confidence) / 2], n, 1 / len(forms)) / n if n else (float("nan"),) * 2
            )
            share = counts[form] / n if n else float("nan")
            rows.append((tensor, form, share, 1 / len(forms), low, high, n, not low <= share <= high))
    return pd.DataFrame(rows, columns=["tensor", "form", "share", "expected", "low", "high", "n", "outside"])


def agreement(first: Config, second: Config) -> float:
    """Return the share of genes in which two configurations of the same layers are equal."""
    equal = [getattr(first[name], tensor) == getattr(choice, tensor) for name, choice in second.items() for tensor in TENSORS]
    return sum(equal) / len(equal)
