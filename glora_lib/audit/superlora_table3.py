"""SuperLoRA's Table 3, GPT-2 medium on restaurants: its sizes and units, its gains, and what is printed of LoRA elsewhere."""

import pandas as pd

from glora_lib.audit.judge import Check, number, statement, value
from glora_lib.audit.sources import reported

GPT2_MEDIUM = {"layers": 24, "width": 1024, "vocabulary": 50257, "positions": 1024}
MEBI = 2.0**20


def gpt2(part: str) -> int:
    """Return parameters of GPT-2 medium: "all", "qv" (two 1024 x 1024 a layer), "lora" (rank 4 on both) or "top2" layers."""
    n, d = GPT2_MEDIUM["layers"], GPT2_MEDIUM["width"]
    layer = 12 * d * d + 13 * d  # attention 4 d^2 + 4 d, MLP 8 d^2 + 5 d, two norms 4 d
    embeddings = (GPT2_MEDIUM["vocabulary"] + GPT2_MEDIUM["positions"]) * d
    sizes = {"all": embeddings + n * layer + 2 * d, "qv": n * 2 * d * d, "lora": n * 2 * 2 * d * 4, "top2": 2 * layer}
    return sizes[part]


def millions(part: str, unit: float = 1e6) -> Check:
    """Return the check of a size printed with an M against GPT-2 medium's, in millions or in units of 2^20."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        ours = gpt2(part) / unit
        words = "" if unit == 1e6 else " x 2^20"
        return f"{gpt2(part):,} = {ours:.2f}{words or ' million'}", number(
            float(claim["reported"]), ours, float(claim["tolerance"])
        )

    return check


def table3() -> pd.DataFrame:
    """Return SuperLoRA's Table 3: a row per method, a column per metric."""
    return reported("superlora_table3_e2e").pivot(index="method", columns="metric", values="value")


def saving() -> float:
    """Return how many percent fewer parameters SuperLoRA has than LoRA in Table 3."""
    sizes = table3()["trainable_params_m"]
    return 100 * (1 - sizes["SuperLoRA"] / sizes["LoRA"])


def better_on_all() -> tuple[bool, str]:
    """Say whether SuperLoRA is ahead of LoRA on all five metrics of Table 3; name those within the printed spreads."""
    entries = reported("superlora_table3_e2e").query("metric != 'trainable_params_m'").set_index(["method", "metric"])
    gap = entries.loc["SuperLoRA", "value"] - entries.loc["LoRA", "value"]
    spread = sum(entries.loc[method, "spread"].replace("", "0").astype(float) for method in ("SuperLoRA", "LoRA"))
    within = gap.index[gap <= spread].tolist()
    return bool((gap > 0).all()), f"ahead on {(gap > 0).sum()} of {len(gap)}; within the spreads: {', '.join(within) or 'none'}"


def elsewhere() -> pd.Series:
    """Return the BLEU that LoRA's authors print for GPT-2 medium on the same data, by method."""
    return reported("lora_e2e").set_index("method")["value"]


def ahead_of_published() -> tuple[bool, str]:
    """Say whether SuperLoRA's BLEU is ahead of LoRA's as its authors print it; Table 3 has a LoRA row of its own instead."""
    ours, printed, rerun = table3()["bleu"]["SuperLoRA"], elsewhere(), table3()["bleu"]["LoRA"]
    found = f"SuperLoRA {ours:g}, LoRA as published {printed['LoRA']:g} with 0.35 M, in Table 3 {rerun:g}"
    return bool(ours > printed["LoRA"]), f"{found}; prefixes of 0.35 M, which Table 3 leaves out, {printed['Prefix']:g}"


CHECKS = {
    "superlora/table3-qv": millions("qv"),
    "superlora/table3-qv-binary": millions("qv", MEBI),
    "superlora/table3-lora": millions("lora"),
    "superlora/table3-full": millions("all"),
    "superlora/table3-top2": millions("top2"),
    "superlora/70-percent": value(saving, "{:.0f} %"),
    "superlora/all-metrics": statement(better_on_all),
    "superlora/lora-as-published": statement(ahead_of_published),
}
