"""Sentences about language models and layers of other kinds, on records that the tests write."""

import pandas as pd
import pytest

from glora_lib import audit
from glora_lib.audit import checklist, desk
from glora_lib.audit.other_models import CHECKS
from glora_lib.runs import record
from glora_lib.runs.record import Record


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    """An empty folder of records."""
    monkeypatch.setattr(record, "ROOT", tmp_path)


def answered(method: str, values: list[list[float]], task: str = "alpaca_999", profile: str = "cpu", selected: str = "val"):
    """Save a record a seed, with one benchmark's answers."""
    for seed, items in enumerate(values):
        Record(
            "language_models", task, method, profile, seed,
            {"backbone_label": "a model", "epochs": 2, "model": "llama-7b"},
            {"n_train": 33, "average": sum(items) / len(items), "evaluations": 18 if "glora" in method else 0},
            None, selected, {"stored": 20_000}, {"commit": "0" * 40, "dirty": False}, {"items": {"arc": items}},
        ).save()  # fmt: skip


def shown(method: str, tests: dict[str, float], seeds: int = 3):
    for task, test in tests.items():
        for seed in range(seeds):
            Record(
                "layers", task, method, "cpu", seed,
                {"backbone_label": "a ConvNet", "epochs": 6, "image_size": 48, "group": "natural"},
                {"test": test + 0.001 * seed, "n_test": 100}, None, "val", {"stored": 20_000},
                {"commit": "0" * 40, "dirty": False},
            ).save()  # fmt: skip


def verdict_of(identity: str, profile: str = "cpu") -> pd.Series:
    return pd.Series(desk.judged(audit.claims().loc[identity], profile), index=desk.COLUMNS)


def test_every_check_has_its_claim_and_without_records_nothing_is_run():
    assert set(CHECKS) <= set(audit.claims().index)
    assert {verdict_of(identity).verdict for identity in CHECKS} == {"not run"}


@pytest.mark.parametrize(
    ("glora", "verdict"),
    [
        ([[1.0, 0.9, 1.0, 0.8]] * 3, "seen here"),
        ([[0.0, 0.1, 0.0, 0.0]] * 3, "not seen here"),
        ([[1.0, 0.1, 0.2, 0.8]] * 3, "undecided here"),  # the questions disagree
        ([[1.0, 0.9, 1.0, 0.9], [0.5, 0.4, 0.5, 0.5], [0.9, 0.9, 0.9, 0.8]], "undecided here"),  # the trainings do
    ],
)
def test_answers_are_judged_over_questions_and_over_trainings(glora, verdict):
    answered("lora", [[0.5, 0.5, 0.5, 0.4]] * 3)
    answered("glora", glora)
    row = verdict_of("language/ahead-of-lora")
    assert row.verdict == verdict
    assert "over 4 questions" in row.ours
    assert "over 3 trainings" in row.ours
    assert row.scale == "a model; 33 texts; 2 epochs, 18 subnets, 0.02 M stored against 2 epochs, 0.02 M stored"


def test_the_untrained_model_stands_beside_the_trainings_of_all_sets():
    answered("base", [[0.5, 0.5, 0.5, 0.4]], selected="nothing")
    answered("glora", [[1.0, 0.9, 1.0, 0.8]])
    assert verdict_of("language/ahead-of-base").ours == "1 of 3 pairs of trainings (cpu)"
    answered("glora", [[1.0, 0.9, 1.0, 0.8]] * 2, task="alpaca_2000")
    row = verdict_of("language/ahead-of-base")
    assert row.verdict == "seen here"
    assert row.scale.endswith(" against no training")
    assert verdict_of("language/ahead-of-base", "smoke").verdict == "not run"


def test_rows_of_a_convnet_are_judged_over_sources_of_images():
    tasks = ("mnist_m", "landcover_10", "clevr_count")
    shown("linear", dict.fromkeys(tasks, 0.5))
    shown("glora_conv", dict(zip(tasks, (0.55, 0.56, 0.57), strict=True)))
    shown("glora_conv_norm", dict(zip(tasks, (0.55, 0.57, 0.56), strict=True)))
    row = verdict_of("layers/ahead-of-linear")
    assert row.verdict == "seen here"
    assert row.ours.startswith("+6.0 [")
    assert row.scale.startswith("a ConvNet; 48 px; 6 epochs")
    assert verdict_of("layers/norms").verdict == "undecided here"


def test_numbers_of_the_paper_profile_belong_to_one_model_and_set():
    answered("glora", [[0.5, 0.5, 0.5, 0.54]], task="alpaca_52k.json", profile="paper")
    assert verdict_of("paper-scale/llama-1").verdict == "match"  # 51.0 beside 50.8
    assert verdict_of("paper-scale/llama-2").verdict == "not run"


def test_oracles_that_say_so_are_no_selection_on_test_data():
    answered("glora_oracle", [[0.5, 0.5, 0.5, 0.4]], selected="test (oracle)")
    question = "Was anything selected on test data?"
    table = checklist.checklist(audit.verdicts("cpu"), "cpu").set_index("question")
    assert table.loc[question, "answer"] == "in controls"
    answered("glora", [[0.5, 0.5, 0.5, 0.4]], selected="test (by mistake)")
    table = checklist.checklist(audit.verdicts("cpu"), "cpu").set_index("question")
    assert table.loc[question, "answer"] == "yes"
