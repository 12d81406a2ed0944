"""Checks of SuperLoRA's sentences on our own runs: classification, generated digits, generated texts."""

import pandas as pd

from glora_lib.audit.intervals import judged
from glora_lib.audit.judge import Check, Judged, number
from glora_lib.measures.efficiency import IMAGES, SENTENCES, TEXTS, Sentence, at_best_rates, differences, named, sizes_of
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.record import results
from glora_lib.runs.superlora import HEADS, experiment


def classified(key: str) -> Check:
    """Return the check of a sentence of Sec. 4.1 on every task and head, each setting at its own best rate."""

    def check(claim: pd.Series, profile: str) -> Judged:
        sentence, first = SENTENCES[key], PROFILES[profile].seeds[0]
        tables = [at_best_rates(results(experiment(head), profile), first) for head in HEADS]
        records = pd.concat([table for table in tables if len(table)] or tables)
        pairs = [differences(table, sentence) for table in tables if len(table)]
        pairs = pd.concat(pairs) if pairs else pd.DataFrame({"n": []})
        return judged(pairs, profile, scale=_scale(records, sentence, "one_cycle"))

    return check


def generated(experiment_name: str, sentence: Sentence, metric: str, times: int, what: str) -> Check:
    """Return the check of a sentence on one experiment, whose runs share their source: `metric`, times what makes points."""

    def check(claim: pd.Series, profile: str) -> Judged:
        records = results(experiment_name, profile)
        if metric not in records:
            return Judged(f"no records of {experiment_name} ({profile})", "not run")
        pairs = differences(records.assign(**{metric: times / 100 * records[metric]}), sentence, metric)
        return judged(pairs, profile, what=what, scale=_scale(records, sentence, "steps"))

    return check


def at_paper_scale(experiment_name: str, setting: str, metric: str, times: int) -> Check:
    """Return the check of a reported number against the mean of a setting's records at paper scale."""

    def check(claim: pd.Series, profile: str) -> tuple[str, str]:
        records = results(experiment_name, "paper")
        records = records[records["method"].map(named) == setting] if len(records) else records
        if records.empty:
            return f"no record of {experiment_name} at paper scale", "not run"
        ours = times * records[metric].mean()
        return f"{ours:.1f} ({len(records)} records)", number(float(claim["reported"]), ours, float(claim["tolerance"]))

    return check


def _scale(records: pd.DataFrame, sentence: Sentence, steps: str) -> str:
    """Return the scale of a comparison in words: steps, batch, examples, and the trained parameters of both sides."""
    names = set(records["method"].map(named)) if len(records) else set()
    if not {sentence.method, sentence.against} <= names:
        return ""
    settings = records.iloc[0]["record"].settings
    number_of = settings[steps]["steps"] if steps == "one_cycle" else settings[steps]
    ours, theirs = sizes_of(records, sentence)
    trained = int(records["n_train"].iloc[0])
    return f"{number_of} steps of {settings['batch_size']}, {trained} examples; {ours:,} against {theirs:,} parameters"


CHECKS = {
    **{f"superlora/measured-{key}": classified(key) for key in SENTENCES},
    **{
        f"superlora/images-{key}": generated("image_generation", sentence, "l1_score", 100, "in hundredths of the l1 score ")
        for key, sentence in IMAGES.items()
    },
    **{
        f"superlora/texts-{key}": generated("text_generation", sentence, "bleu_beam_1", 1, "in BLEU, greedy ")
        for key, sentence in TEXTS.items()
    },
    "paper-scale/cifar100": at_paper_scale("superlora_trained_head", "3D r=3", "test", 100),
    "paper-scale/bleu": at_paper_scale("text_generation", "SuperLoRA r=9", "bleu_beam_10", 1),
}
