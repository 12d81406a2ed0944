"""Reported against ours: from the claims, the papers' tables and our records to verdicts. No verdict is typed by hand.

match: within the tolerance set beforehand · near: within twice · off · direction: the ordering holds, the number is another
setting's · contradicted · not run.
"""

from collections.abc import Callable
from math import log10

import pandas as pd
import torch
from torch import nn

from glora_lib.layer import GLoRALinear
from glora_lib.paths import DATA, REPORTED
from glora_lib.profile import PROFILES
from glora_lib.record import results
from glora_lib.sizes import mean_subnet, supernet_size, vit_b_shapes
from glora_lib.space import Choice, Space
from glora_lib.table import paired

SEEDS = 3  # fewer support no statement about a method
COLUMNS = ["id", "place", "reported", "ours", "verdict", "evidence"]


def verdicts(profile: str) -> pd.DataFrame:
    """Return the verdict table of a profile: id, place in the paper, reported, ours, verdict, evidence."""
    claims = pd.read_csv(DATA / "claims.csv").set_index("id")
    rows = []
    for identity, claim in claims.iterrows():
        ours, verdict = CHECKS[identity](claim, profile)
        rows.append((identity, claim["place"], claim["reported"], ours, verdict, f"notebooks/{claim['notebook']}.ipynb"))
    return pd.concat([pd.DataFrame(rows, columns=COLUMNS), averages()], ignore_index=True)


def averages() -> pd.DataFrame:
    """Return a verdict for each row of Table 1 on its Average column, which is the mean of the three groups' means.

    Tolerance: 0.05 for rounding the average and 0.05 for the rounding of its entries.
    """
    table = pd.read_csv(REPORTED / "table1_vtab1k.csv").query("metric == 'top1'").astype({"value": float})
    rows = []
    for (method, size), entries in table.groupby(["method", "reported_params_m"], sort=False):
        reported = entries.loc[entries["task"] == "average", "value"].item()
        ours = entries[entries["task"] != "average"].groupby("group")["value"].mean().mean()
        identity = f"table1/average/{method.lower()}-{size:g}"
        rows.append(
            (identity, "GLoRA Table 1", reported, f"{ours:.2f}", number(reported, ours, 0.1), "data/reported/table1_vtab1k.csv")
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def number(reported: float, ours: float, tolerance: float) -> str:
    """Return the verdict on a number: match within `tolerance`, near within twice that, else off."""
    gap = abs(ours - reported)
    return "match" if gap <= tolerance + 1e-9 else "near" if gap <= 2 * tolerance + 1e-9 else "off"


def exact(reported, ours) -> str:
    """Return the verdict on a count or a statement: it holds or it does not."""
    return "match" if ours == reported else "contradicted"


def product_fits(d2: int = 6, d1: int = 4) -> bool:
    """Return whether W0 A is defined as the matrix product that Eq. 10 prints, with the shapes that it gives."""
    try:
        torch.empty(d2, d1) @ torch.empty(d2, d1)
    except RuntimeError:
        return False
    return True


def _per_layer(claim, profile):
    ours = Space(vit_b_shapes(), (8,)).per_layer
    return ours, exact(int(claim["reported"]), ours)


def _subnets(ranks: tuple[int, ...]) -> Callable:
    def check(claim, profile):
        space = Space(vit_b_shapes(), ranks)
        return f"{space.per_layer}^48 = 10^{log10(space.count()):.1f}", exact(int(claim["reported"]), space.count())

    return check


def _subnet_size(rank: int) -> Callable:
    def check(claim, profile):
        reported, ours = float(claim["reported"]), mean_subnet(rank) / 1e6
        return f"{ours:.3f} (mean random subnet)", number(reported, ours, claim["tolerance"] * reported)

    return check


def _trained(claim, profile):
    reported, ours = float(claim["reported"]), supernet_size(8) / 1e6
    return f"{ours:.3f} (trained)", number(reported, ours, claim["tolerance"] * reported)


def _product(claim, profile):
    fits = product_fits()
    return "dimensions fit" if fits else "they do not", exact(True, fits)


def _elementwise(claim, profile):
    layer = GLoRALinear(nn.Linear(3, 2).double(), rank=2).use(Choice(A="lora2"))
    nn.init.normal_(layer.Ad)
    same = torch.equal(layer.effective()[0], layer.W0 + layer.W0 * (layer.Ad @ layer.Au))
    return "elementwise" if same else "not elementwise", exact(True, same)


def _fusion(bias: bool) -> Callable:
    def check(claim, profile):
        layer = GLoRALinear(nn.Linear(3, 2, bias=bias), rank=2).use(Choice("lora2", "lora2", "vector", "vector", "vector"))
        extra = sum(p.numel() for p in layer.fuse().parameters()) - sum(
            p.numel() for p in nn.Linear(3, 2, bias=bias).parameters()
        )
        return f"{extra} extra parameters (3 -> 2)", exact(0, extra)

    return check


def _beats(against: str) -> Callable:
    def check(claim, profile):
        table = paired(results("vtab1k", profile), "glora", against)
        if table.empty or not PROFILES[profile].compared:
            return f"no records to compare ({profile})", "not run"
        mean, n = table["difference"].mean(), int(table["n"].sum())
        if table["n"].min() < SEEDS:
            return f"{mean:+.1f} points on {table['n'].min()} of {SEEDS} seeds ({profile}, {len(table)} tasks)", "not run"
        return f"{mean:+.1f} points ({profile}, {len(table)} tasks, {n} pairs)", "direction" if mean > 0 else "contradicted"

    return check


def _average(claim, profile):
    table = results("vtab1k", "paper")
    glora = table[table["method"] == "glora"]
    if glora["task"].nunique() < 19:
        return f"{glora['task'].nunique()} of 19 tasks", "not run"
    groups = glora["record"].map(lambda record: record.settings["group"])
    ours = 100 * glora.groupby([groups.rename("group"), "task"])["test"].mean().groupby("group").mean().mean()
    return f"{ours:.1f}", number(float(claim["reported"]), ours, claim["tolerance"])


CHECKS = {
    "space/per-layer": _per_layer,
    "space/subnets": _subnets((8,)),
    "space/subnets-two-ranks": _subnets((8, 4)),
    "size/glora-0.86": _subnet_size(8),
    "size/glora-0.44": _subnet_size(4),
    "size/glora-0.29": _subnet_size(2),
    "size/trained-0.86": _trained,
    "equation/10-product": _product,
    "equation/10-code": _elementwise,
    "fusion/bias": _fusion(True),
    "fusion/no-bias": _fusion(False),
    "measured/glora-beats-linear": _beats("linear"),
    "measured/glora-beats-lora": _beats("lora"),
    "paper-scale/average": _average,
}
