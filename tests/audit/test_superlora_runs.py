"""SuperLoRA's sentences on records that the tests write."""

import pandas as pd
import pytest

from glora_lib import audit
from glora_lib.audit import desk
from glora_lib.audit.superlora_runs import CHECKS
from glora_lib.measures.efficiency import IMAGES, SENTENCES, TEXTS
from glora_lib.runs import record
from glora_lib.runs.record import Record


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    """An empty folder of records."""
    monkeypatch.setattr(record, "ROOT", tmp_path)


def plant(
    experiment: str, task: str, method: str, trained: int, seeds: int = 3, profile: str = "cpu", **metrics: float
) -> None:
    for seed in range(seeds):
        moved = {name: value + 0.001 * (seed - 1) for name, value in metrics.items()}
        Record(
            experiment, task, method, profile, seed, {"one_cycle": {"steps": 80}, "steps": 12, "batch_size": 16},
            {"n_test": 500, "n_train": 800, "val": 0.5} | moved, None, "nothing", {"trained": trained},
            {"commit": "0" * 40, "dirty": False},
        ).save()  # fmt: skip


def verdict_of(identity: str, profile: str = "cpu") -> pd.Series:
    return pd.Series(desk.judged(audit.claims().loc[identity], profile), index=desk.COLUMNS)


def test_every_sentence_is_a_claim_and_every_claim_has_a_check():
    claims = audit.claims()
    ids = {f"superlora/measured-{key}" for key in SENTENCES} | {f"superlora/images-{key}" for key in IMAGES}
    ids |= {f"superlora/texts-{key}" for key in TEXTS}
    assert ids | {"paper-scale/cifar100", "paper-scale/bleu"} == set(CHECKS)
    assert ids <= set(claims.index)
    assert set(claims.loc[list(ids), "kind"]) == {"measured"}


def test_without_records_nothing_is_run():
    assert {verdict_of(identity).verdict for identity in CHECKS} == {"not run"}


def test_a_sentence_is_judged_over_sources_at_each_setting_s_best_rate():
    """The second rate of LoRA is better on test and worse on val: it does not count."""
    for head, task, ahead in (("trained", "mnist_m", 0.02), ("frozen", "cifar10", 0.03), ("trained", "landcover_10", 0.025)):
        plant(f"superlora_{head}_head", task, "2D_fold_G=1_r=4@0.03", 15, test=0.6 + ahead, val=0.5)
        plant(f"superlora_{head}_head", task, "LoRA_r=3@0.03", 55, test=0.6, val=0.5)
        plant(f"superlora_{head}_head", task, "LoRA_r=3@0.3", 55, seeds=1, test=0.9, val=0.4)
    found = verdict_of("superlora/measured-three-fold")
    assert found.verdict == "seen here"
    assert found.ours.startswith("+2.5 [")
    assert "over 3 sources" in found.ours
    assert found.scale == "80 steps of 16, 800 examples; 15 against 55 parameters"
    assert verdict_of("superlora/measured-ten-fold").verdict == "not run"


def test_one_source_is_undecided_and_shows_its_seeds():
    plant("image_generation", "mnist", "dense", 9, l1_score=1.5)
    plant("image_generation", "mnist", "LoRA_r=1", 2, l1_score=1.4)
    found = verdict_of("superlora/images-dense-best")
    assert found.verdict == "undecided here"
    assert "in hundredths of the l1 score +10.0 over 1 source, over its seeds [" in found.ours
    plant("text_generation", "e2e", "SuperLoRA_r=9", 9, bleu_beam_1=40.0)
    plant("text_generation", "e2e", "LoRA_r=4", 30, bleu_beam_1=41.0)
    assert "in BLEU, greedy -1.0 over 1 source" in verdict_of("superlora/texts-ahead").ours


def test_too_few_seeds_are_not_run():
    plant("text_generation", "e2e", "SuperLoRA_r=9", 9, seeds=2, bleu_beam_1=40.0)
    plant("text_generation", "e2e", "LoRA_r=4", 30, seeds=2, bleu_beam_1=41.0)
    assert verdict_of("superlora/texts-ahead").verdict == "not run"


def test_a_number_at_paper_scale_is_held_against_the_reported_one():
    plant("superlora_trained_head", "cifar", "3D_r=3@0.05", 9, profile="paper", test=0.905)
    plant("text_generation", "e2e", "SuperLoRA_r=9", 9, profile="paper", bleu_beam_10=69.0)
    assert verdict_of("paper-scale/cifar100", "paper").verdict == "match"
    assert verdict_of("paper-scale/bleu", "paper").verdict == "off"
