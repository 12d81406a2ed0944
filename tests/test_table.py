"""Comparisons of records: means, gaps, and paired differences that a reader can redo by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from glora_lib.table import paired, summarise, wide


@pytest.fixture
def records():
    rows = [("a", "glora", seed, value) for seed, value in enumerate((0.50, 0.54, 0.58))]
    rows += [("a", "linear", seed, value) for seed, value in enumerate((0.50, 0.50, 0.51))]
    rows += [("b", "glora", 0, 0.90), ("b", "linear", 0, 0.80), ("b", "linear", 1, 0.10)]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "test"]).assign(n_test=200)


def test_summarise_gives_mean_sd_and_n_in_percent(records):
    row = summarise(records).set_index(["task", "method"]).loc[("a", "glora")]
    assert row["mean"] == pytest.approx(54)
    assert row["sd"] == pytest.approx(4)
    assert row["n"] == 3


def test_wide_shows_gaps_and_gives_no_mean_over_them(records):
    table = wide(summarise(records[(records["task"] == "a") | (records["method"] == "glora")]))
    assert table.loc["linear", "b"] == "no record"
    assert table.loc["linear", "mean of tasks"] == "nan"
    assert table.loc["glora", "mean of tasks"] == "72.0"
    assert table.loc["glora", "a"] == "54.0 ± 4.0 (3)"


def test_paired_uses_only_seeds_that_both_methods_have(records):
    table = paired(records, "glora", "linear").set_index("task")
    assert table.loc["b", "n"] == 1
    assert table.loc["b", "difference"] == pytest.approx(10)
    assert np.isnan(table.loc["b", "low"])


def test_the_interval_is_a_t_interval_over_seeds(records):
    row = paired(records, "glora", "linear").set_index("task").loc["a"]
    sample = np.array([0, 4, 7])
    low, high = stats.t.interval(0.95, 2, sample.mean(), stats.sem(sample))
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["positive"] == 2


@pytest.mark.parametrize("empty", [pd.DataFrame(), pd.DataFrame({"task": [], "method": [], "seed": [], "test": []})])
def test_without_records_there_is_nothing_to_compare(empty):
    assert paired(empty, "glora", "linear").empty
