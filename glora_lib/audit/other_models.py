"""Checks on our own runs of other models than a plain ViT: a language model (Table 2) and a ConvNet (App. C, a reviewer)."""

import pandas as pd

from glora_lib.audit.intervals import amount, judged, needed, points, scale, side
from glora_lib.audit.judge import Check, Judged, number, seen
from glora_lib.measures.language import over_sets
from glora_lib.measures.table import paired
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.record import results


def answers(method: str, against: str) -> Check:
    """Return the check that a method is ahead of another on the questions that both answer.

    Both intervals must lie beside zero: that over questions, and that over trainings (seeds of every set of instructions).
    """

    def check(claim: pd.Series, profile: str) -> Judged:
        if not PROFILES[profile].compared:
            return Judged(f"the {profile} profile is compared with nothing", "not run")
        records = results("language_models", profile)
        if records.empty or not {method, against} <= set(records["method"]):
            return Judged(f"no records to compare ({profile})", "not run")
        questions, trainings, asked = over_sets(records, method, against)
        if trainings.n < needed(profile):
            return Judged(f"{trainings.n} of {needed(profile)} pairs of trainings ({profile})", "not run")
        low, high = min(questions.low, trainings.low), max(questions.high, trainings.high)
        return Judged(
            f"{points(questions)} over {amount(asked, 'questions')}, [{trainings.low:.1f}, {trainings.high:.1f}] over "
            f"{amount(trainings.n, 'trainings')}",
            seen(low, high),
            visible=f"{max(questions.half, trainings.half):.1f} points",
            scale=_scale(records, method, against),
        )

    return check


def images(method: str, against: str) -> Check:
    """Return the check that a row of the experiment "layers" is ahead of another, over independent sources of images."""

    def check(claim: pd.Series, profile: str) -> Judged:
        records = results("layers", profile)
        if records.empty:
            return Judged(f"no records to compare ({profile})", "not run")
        pairs = paired(records, method, against)
        same = records[records["task"].isin(pairs.loc[pairs["n"] >= needed(profile), "task"])]
        found = judged(pairs, profile, scale=scale(same, method, against))
        label = records.iloc[0]["record"].settings["backbone_label"]
        return found._replace(scale=f"{label}; {found.scale}" if found.scale else "")

    return check


def llama(model: str, instructions: str) -> Check:
    """Return the check of a reported average against GLoRA's of the paper profile, of one model on one set of instructions."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        records = results("language_models", "paper")
        records = records[(records["method"] == "glora") & (records["task"] == instructions)]
        records = records[[record.settings["model"] == model for record in records["record"]]]
        if records.empty:
            return f"no record of {model} on {instructions} at paper scale", "not run"
        ours = 100 * records["average"].mean()
        return f"{ours:.1f} ({len(records)} records)", number(float(claim["reported"]), ours, float(claim["tolerance"]))

    return check


def _scale(records: pd.DataFrame, *methods: str) -> str:
    """Return the scale of a comparison in words: the model, the texts, and what each side was trained for and scored."""
    some = records.iloc[0]["record"]
    sides = [side(records[records["method"] == name]) if name != "base" else "no training" for name in methods]
    texts = " and ".join(map(str, sorted({record.metrics["n_train"] for record in records["record"]})))
    return f"{some.settings['backbone_label']}; {texts} texts; {' against '.join(sides)}"


CHECKS = {
    "language/ahead-of-lora": answers("glora", "lora"),
    "language/ahead-of-base": answers("glora", "base"),
    "language/gained-bias": answers("glora", "glora_weight"),
    "language/oracle": answers("glora_oracle", "glora"),
    "layers/ahead-of-linear": images("glora_conv", "linear"),
    "layers/ahead-of-bitfit": images("glora_conv", "bitfit"),
    "layers/ahead-of-full": images("glora_conv", "full"),
    "layers/ahead-of-lora": images("glora_conv", "lora"),
    "layers/norms": images("glora_conv_norm", "glora_conv"),
    "paper-scale/llama-1": llama("llama-7b", "alpaca_52k.json"),
    "paper-scale/llama-2": llama("llama-2-7b", "sharegpt.json"),
}
