"""Tables of generated texts: SuperLoRA's Table 3 as printed, with its units mended, and ours beside it in its own rows."""

import pandas as pd

from glora_lib.measures.efficiency import named
from glora_lib.runs.paths import REPORTED

METRICS = {"bleu": "BLEU", "nist": "NIST", "meteor": "MET", "rouge_l": "ROUGE-L", "cider": "CIDEr"}
# What the printed sizes are in numbers, counted on GPT-2 medium: one column has millions and units of 2^20
MENDED = {"FT Wq,Wv": 50_331_648, "LoRA": 393_216}


def printed() -> pd.DataFrame:
    """Return Table 3 of the paper: a row per method, its size as printed (M) and, where counted, in millions, and metrics."""
    entries = pd.read_csv(REPORTED / "superlora_table3_e2e.csv")
    table = entries.pivot(index="method", columns="metric", values="value").loc[list(dict.fromkeys(entries["method"]))]
    table.insert(0, "printed (M)", table.pop("trainable_params_m"))
    table.insert(1, "millions", [MENDED.get(name, 1e6 * size) / 1e6 for name, size in table["printed (M)"].items()])
    return table[["printed (M)", "millions", *METRICS]].rename(columns=METRICS).rename_axis(columns=None)


def scores(records: pd.DataFrame, beams: int) -> pd.DataFrame:
    """Return a row per setting: parameters, n seeds, n texts, and each metric's mean and sd with so many beams."""
    columns = [f"{name}_beam_{beams}" for name in METRICS if f"{name}_beam_{beams}" in records]
    if records.empty or not columns:
        return pd.DataFrame()
    rows = records.assign(setting=records["method"].map(named))
    groups = rows.groupby("setting", sort=False)
    table = groups.agg(parameters=("trained", "first"), seeds=("seed", "size"), texts=(f"n_beam_{beams}", "first"))
    table["held-out loss"] = groups["held_out_loss"].mean()
    for column in columns:
        mean, sd = groups[column].mean(), groups[column].std()
        name = METRICS[column.removesuffix(f"_beam_{beams}")]
        table[name] = [f"{m:.2f}" + (f" ± {s:.2f}" if s == s else "") for m, s in zip(mean, sd, strict=True)]
    return table.reset_index()
