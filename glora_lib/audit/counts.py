"""Checks on counts: the search space, and the parameters of every row of Table 1 through `sizes`."""

from collections import Counter
from functools import cache
from itertools import combinations
from math import log10, prod
from statistics import pvariance

import pandas as pd

from glora_lib.audit.judge import Check, count, exact, number, statement
from glora_lib.glora.space import TENSORS, Space, forms
from glora_lib.measures.sizes import (
    FACT_TK_TASKS,
    VIT_B,
    formula,
    mean_fact,
    mean_head,
    mean_noah,
    mean_subnet,
    supernet_size,
    vit_b_shapes,
)

_mean_subnet = cache(mean_subnet)  # it lists 432 choices for each shape, and six checks ask
KINDS_OF_LAYER = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def subnets(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the reported numbers of subnets, with one rank and with two, against choices of a layer to the power of layers."""
    spaces = [Space(vit_b_shapes(), ranks) for ranks in ((8,), (8, 4))]
    printed = [int(part.split()[0].replace(",", "")) for part in claim["reported"].split("; ")]
    ours = "; ".join(f"{one.per_layer}^{len(one.layer_names)} = 10^{log10(one.count()):.1f}" for one in spaces)
    return ours, exact(printed, [one.count() for one in spaces])


def options() -> tuple[bool, str]:
    """Say whether a layer offers 4, 4, 3, 3, 3 forms of A to E."""
    found = [len(forms(tensor, (8,))) for tensor in TENSORS]
    return found == [4, 4, 3, 3, 3], ", ".join(map(str, found))


def joint_choices(ranks: tuple[int, ...]) -> dict[tuple[str, ...], int]:
    """Return every group of tensors of a layer, from one to all five, with the number of its joint choices."""
    sizes = {tensor: len(forms(tensor, ranks)) for tensor in TENSORS}
    groups = [group for n in range(1, 6) for group in combinations(TENSORS, n)]
    return {group: prod(sizes[tensor] for tensor in group) for group in groups}


def adaptations(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the reported number of adaptations of one tensor against the numbers of its forms."""
    printed = int(claim["reported"])
    of_one = sorted({n for ranks in ((8,), (8, 4)) for group, n in joint_choices(ranks).items() if len(group) == 1})
    groups = [group for ranks in ((8,), (8, 4)) for group, n in joint_choices(ranks).items() if n == printed]
    words = " or ".join(map(str, of_one))
    found = (
        f"{words} for a tensor; groups of tensors with {printed} joint choices: {', '.join(map('+'.join, groups)) or 'none'}"
    )
    return found, exact(True, printed in of_one)


def double_counted(claim: pd.Series, profile: str) -> tuple[str, str]:
    """Hold the reported number against the product with two labels of rank for A and for B each, whether used or not."""
    ours = Space(["layer"], (8,)).per_layer * len(vit_b_shapes()) * 2 * 2
    return f"432 x 48 x 2 x 2 = {ours:,}", exact(int(claim["reported"].replace(",", "")), ours)


def table1_size(ours) -> Check:
    """Return the check of a row's "# params (M)" in Table 1, to the printed digits, against `ours` parameters."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        parameters = ours()
        return f"{parameters:,.0f}", number(float(claim["reported"]), parameters / 1e6, float(claim["tolerance"]))

    return check


def ssf_as_described() -> int:
    """Return SSF's parameters on ViT-B where it follows every MLP, MHSA and LayerNorm: a scale and a shift a feature."""
    return 2 * VIT_B.width * (4 * VIT_B.depth + 1)  # two norms, MHSA and MLP in a block, and the last norm


def subnet_size(rank: int) -> Check:
    """Return the check of GLoRA's printed size against the mean random subnet; the tolerance is a share of what is printed."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        ours, spread = _mean_subnet(rank) / 1e6, subnet_spread(rank) / 1e6
        return f"{ours:.3f} (mean random subnet, sd {spread:.3f})", _within_share(claim, ours)

    return check


def trained_size(rank: int) -> Check:
    """Return the check of GLoRA's printed size against what the supernet trains; tolerance as for `subnet_size`."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        ours = supernet_size(rank) / 1e6
        return f"{ours:.3f} (trained)", _within_share(claim, ours)

    return check


def _within_share(claim, ours: float) -> str:
    printed = float(claim["reported"])
    return number(printed, ours, float(claim["tolerance"]) * printed)


@cache
def subnet_spread(rank: int) -> float:
    """Return the exact standard deviation of a uniformly random subnet's size on ViT-B, in parameters."""
    space, variance = Space(["layer"], (rank,)), 0.0
    for shape, layers in Counter(vit_b_shapes().values()).items():
        counts = [space.parameters({"layer": choice}, {"layer": shape}) for choice in space.choices()]
        variance += layers * pvariance(counts)
    return variance**0.5


@cache
def size_by_kind(rank: int = 8) -> dict[str, float]:
    """Return the mean size of a uniformly random subnet by kind of layer of ViT-B, in parameters."""
    choices = Space(["layer"], (rank,)).choices()
    space, shapes = Space(["layer"], (rank,)), vit_b_shapes()
    sizes = {}
    for kind in KINDS_OF_LAYER:
        shape = shapes[f"blocks.0.{kind}"]
        counts = [space.parameters({"layer": choice}, {"layer": shape}) for choice in choices]
        sizes[kind] = VIT_B.depth * sum(counts) / len(counts)
    return sizes


def projection_least() -> tuple[bool, str]:
    """Say whether the projection has the fewest parameters in a random subnet already, without any search."""
    sizes = size_by_kind()
    share = {kind: f"{100 * size / sum(sizes.values()):.0f} % {kind}" for kind, size in sizes.items()}
    return min(sizes, key=sizes.get) == "attn.proj", f"a random subnet: {', '.join(share.values())}"


def mlp_more() -> tuple[bool, str]:
    """Say whether the MLP holds more parameters than the attention in a random subnet already, without any search."""
    sizes = size_by_kind()
    mlp, attention = sizes["mlp.fc1"] + sizes["mlp.fc2"], sizes["attn.qkv"] + sizes["attn.proj"]
    return mlp > attention, f"a random subnet: {mlp / attention:.2f} times the attention's"


def storage_of_tasks() -> tuple[bool, str]:
    """Say whether a fused model a task needs the full set of weights (the objection holds if it does); add the alternative."""
    full, adapter = formula("full").trained, _mean_subnet(8)
    return full > adapter, f"{full / 1e6:.1f} M a task if fused; {adapter / 1e6:.2f} M if the subnet is kept apart"


CHECKS = {
    "space/options": statement(options),
    "space/per-layer": count(lambda: Space(vit_b_shapes(), (8,)).per_layer),
    "space/layers": count(lambda: len(vit_b_shapes())),
    "space/product": count(lambda: Space(vit_b_shapes(), (8,)).per_layer * len(vit_b_shapes())),
    "space/subnets": subnets,
    "space/two-ranks-origin": double_counted,
    "space/72": adaptations,
    "size/full": table1_size(lambda: formula("full").trained),
    "size/linear": table1_size(lambda: formula("linear").trained),
    "size/bitfit": table1_size(lambda: formula("bitfit").trained),
    "size/adapter": table1_size(lambda: formula("adapter").trained),
    "size/adaptformer": table1_size(lambda: formula("adaptformer").trained),
    "size/lora": table1_size(lambda: formula("lora", placement="qkv").trained),
    "size/noah": table1_size(mean_noah),
    "size/fact": table1_size(lambda: mean_fact("fact_tk", FACT_TK_TASKS)),
    "size/ssf": table1_size(lambda: formula("ssf").trained),
    "size/ssf-as-described": table1_size(ssf_as_described),
    "size/ssf-with-head": table1_size(lambda: formula("ssf").trained + mean_head()),
    "size/repadapter": table1_size(lambda: formula("repadapter").trained),
    "size/repadapter-without-biases": table1_size(lambda: formula("repadapter", bias=False).trained),
    "size/glora-0.86": subnet_size(8),
    "size/glora-0.44": subnet_size(4),
    "size/glora-0.29": subnet_size(2),
    "size/trained-0.86": trained_size(8),
    "size/trained-0.44": trained_size(4),
    "size/trained-0.29": trained_size(2),
    "figure3/projection": statement(projection_least),
    "figure3/mlp": statement(mlp_more),
    "objection/storage": statement(storage_of_tasks),
}
