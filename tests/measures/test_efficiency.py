"""Points, fronts and pairs from a table of records, on numbers that can be checked by eye."""

import pandas as pd
import pytest

from glora_lib.measures.efficiency import (
    SENTENCES,
    at_best_rates,
    by_rate,
    differences,
    family,
    front,
    hill,
    on_front,
    points,
    sizes_of,
    times_fewer,
)
from glora_lib.measures.sizes import VIT_S, formula
from glora_lib.runs.superlora import REPEATED, SETTINGS


def records(**rows: tuple[int, list[float]]) -> pd.DataFrame:
    """Return records of one task: name (blanks as __) = (parameters, accuracies by seed)."""
    table = [
        {
            "task": "cifar",
            "method": name.replace("__", "_").replace(" ", "_"),
            "seed": seed,
            "test": value,
            "trained": size,
            "n_test": 100,
        }
        for name, (size, values) in rows.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(table)


def test_points_have_mean_spread_and_n():
    table = points(records(**{"LoRA r=1": (10, [0.5, 0.7]), "2D fold G=1 r=4": (4, [0.4])}))
    assert table["name"].tolist() == ["LoRA r=1", "2D fold G=1 r=4"]
    assert table["mean"].tolist() == pytest.approx([60, 40])
    assert table["n"].tolist() == [2, 1]
    assert table["family"].tolist() == ["LoRA", "2D, reshaped"]
    assert points(pd.DataFrame()).empty


def test_every_setting_has_a_family():
    assert {family(name) for name in SETTINGS} == {
        *("dense", "dense, projected", "LoRA", "2D", "2D, reshaped", "2D, projected", "3D", "4D", "5D"),
        *("LoHa", "LoKr", "LoNKr", "LoTR"),
    }
    assert family("2D fold G=1 r=4 shuffled") == family("2D fold G=1 r=8 rho=0.1") == "2D, projected"


def test_validation_images_of_the_first_seed_say_who_is_repeated():
    rows = [
        *(("LoRA_r=1@0.03", 0, 0.6, 0.10), ("LoRA_r=1@0.3", 0, 0.4, 0.90), ("LoRA_r=1@0.03", 1, 0.9, 0.99)),
        *(("3D_r=1@0.3", 0, 0.5, 0.50), ("dense@0.003", 0, 0.55, 0.99), ("dense@0.003", 1, 0.9, 0.99)),
    ]
    table = pd.DataFrame(rows, columns=["method", "seed", "val", "test"]).assign(task="cifar", n_test=100)
    table["trained"] = table["method"].map({"3D_r=1@0.3": 10, "dense@0.003": 500}).fillna(50).astype(int)
    assert on_front(table, 0) == ["3D r=1", "LoRA r=1"]
    assert on_front(table, 1) == ["LoRA r=1"]
    assert on_front(table[:0], 0) == []


def test_the_front_is_what_nothing_smaller_equals():
    rows = [("LoRA a", 5, 50.0), ("3D b", 2, 40.0), ("2D c", 2, 30.0), ("4D d", 7, 50.0), ("dense", 9, 51.0), ("5D e", 6, 10.0)]
    table = pd.DataFrame(rows, columns=["name", "parameters", "mean"]).assign(n=3)
    assert front(table)["name"].tolist() == ["3D b", "LoRA a", "dense"]
    assert front(table, larger=False)["name"].tolist() == ["2D c", "5D e"]
    lucky = pd.DataFrame([("LoHa f", 1, 90.0, 1)], columns=["name", "parameters", "mean", "n"])
    assert front(pd.concat([table, lucky]))["name"].tolist() == ["3D b", "LoRA a", "dense"]


def test_times_fewer_names_the_smallest_that_is_as_good():
    rows = [("LoRA r=1", "LoRA", 10, 40.0), ("LoRA r=2", "LoRA", 20, 70.0), ("3D", "3D", 2, 40.0), ("2D", "2D", 1, 39.0)]
    found = times_fewer(pd.DataFrame(rows, columns=["name", "family", "parameters", "mean"]))
    assert found["smaller"].tolist() == ["3D", "-"]
    assert found["times"].iloc[0] == 5
    assert found["times"].isna().tolist() == [False, True]


def test_a_sentence_is_a_paired_difference_and_its_margin():
    table = records(**{"3D r=3": (1, [0.50, 0.60, 0.70]), "LoRA r=1": (10, [0.51, 0.61, 0.71])})
    (row,) = differences(table, SENTENCES["ten-fold"]).to_dict("records")
    assert (row["difference"], row["n"]) == (pytest.approx(0, abs=1e-9), 3)  # a point behind, a point allowed
    assert sizes_of(table, SENTENCES["ten-fold"]) == (1, 10)
    assert differences(table, SENTENCES["hill"]).empty


def test_the_sentences_pairs_are_repeated_and_have_the_sizes_that_they_speak_of():
    def size(name: str) -> int:
        preset, options = SETTINGS[name]
        return formula(f"superlora_{preset}", VIT_S, **options).trained

    assert {name for s in SENTENCES.values() for name in (s.method, s.against)} <= set(REPEATED)
    times = {key: size(s.against) / size(s.method) for key, s in SENTENCES.items()}
    assert 3 <= times["three-fold"] <= 4
    assert times["ten-fold"] >= 10
    assert times["reshaping"] == pytest.approx(1, abs=0.05)
    assert times["order"] == pytest.approx(1, abs=0.1)
    assert times["hill"] > 1
    assert times["ratio"] == pytest.approx(0.1, abs=1e-4) or times["ratio"] == pytest.approx(10, abs=1e-3)
    assert times["worse-than-lora"] > 1
    assert times["projection"] == 1


def test_a_hill_is_measured_from_its_top():
    rows = [("5D r=2", "5D", 2, 40.0), ("5D r=4", "5D", 4, 60.0), ("5D r=6", "5D", 9, 50.0)]
    assert hill(pd.DataFrame(rows, columns=["name", "family", "parameters", "mean"]), "5D")["below"].tolist() == [20, 0, 10]


def test_the_best_rate_of_each_task_and_setting_is_kept_for_all_seeds():
    rows = [("a", "LoRA_r=1@0.003", 0, 0.5, 0.4), ("a", "LoRA_r=1@0.03", 0, 0.6, 0.3), ("a", "LoRA_r=1@0.03", 1, 0.1, 0.2),
            ("b", "LoRA_r=1@0.003", 0, 0.5, 0.7), ("b", "LoRA_r=1@0.03", 0, 0.4, 0.9)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["task", "method", "seed", "val", "test"])
    kept = at_best_rates(table, 0)
    assert kept[["task", "rate", "seed", "test"]].values.tolist() == [
        ["a", 0.03, 0, 0.3],
        ["a", 0.03, 1, 0.2],
        ["b", 0.003, 0, 0.7],
    ]
    assert at_best_rates(table.head(0), 0).empty
    assert by_rate(table, 0).loc[("b", "LoRA r=1")].tolist() == [50, 40]
