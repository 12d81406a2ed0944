"""Tables by shots and by target, from records made up for the purpose."""

import pandas as pd
import pytest

from glora_lib.measures.table import paired, summarise
from glora_lib.measures.transfer import by_shots, by_target, methods_abreast, retained

EMPTY = pd.DataFrame(columns=["task", "method", "seed", "selected_on", "record"])


def test_draws_of_all_seeds_are_averaged():
    rows = [(f"m-{k}shot-s{seed}", method, seed, k / 10 + seed / 100, 50) for k in (1, 2) for seed in (0, 1) for method in "ab"]
    records = pd.DataFrame([*rows, ("m", "a", 0, 0.9, 50)], columns=["task", "method", "seed", "test", "n_test"])
    table = by_shots(records)
    assert set(zip(table["set"], table["shots"], strict=True)) == {("m", 1), ("m", 2)}
    summary = summarise(table)
    assert summary["n"].tolist() == [2] * 4
    assert summary.query("task == 'm 2' and method == 'a'")["mean"].item() == pytest.approx(20.5)
    assert paired(table, "a", "b")["n"].tolist() == [2, 2]  # the same draw with both methods


def test_targets_stand_beside_their_source():
    records = pd.DataFrame(
        {"task": ["m", "m", "t"], "method": ["a", "b", "a"], "seed": 0, "test": [0.8, 0.5, 0.6], "n_test": [40, 40, 10]}
        | {"shift_o": [0.4, 0.1, None], "n_o": [7, 7, None], "shift_e": [None, None, 0.3], "n_e": [None, None, 10]}
    )
    table = by_target(records)
    assert table["task"].tolist() == ["m on source"] * 2 + ["t on source"] + ["m on o"] * 2 + ["t on e"]
    assert table["n_test"].tolist() == [40, 40, 10, 7, 7, 10]
    assert table["n_test"].dtype == int
    assert retained(table)["test"].tolist() == pytest.approx([0.5, 0.2, 0.5])
    cells = methods_abreast(summarise(table), ["b", "a", "c"])
    assert cells.loc[("m on o", 7)].tolist() == ["10.0 (1)", "40.0 (1)", "- (0)"]
    assert cells.loc[("t on e", 10)].tolist() == ["- (0)", "30.0 (1)", "- (0)"]


def test_without_records_the_tables_are_empty():
    assert by_shots(EMPTY).empty
    assert {"task", "set", "shots", "method"} <= set(by_shots(EMPTY))
    assert by_target(EMPTY).empty
    assert retained(by_target(EMPTY)).empty
    summary = pd.DataFrame(columns=["task", "method", "mean", "sd", "n", "n_test"])
    assert methods_abreast(summary, ["a"]).empty
