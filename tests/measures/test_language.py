"""Tables of language records, intervals over questions, and the merge that errs."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.llamas import tiny

from glora_lib.glora.space import Choice
from glora_lib.measures import language
from glora_lib.methods import attention


def records(values: dict) -> pd.DataFrame:
    """Rows of (task, method, seed) -> benchmark -> values of the questions."""
    rows = []
    for (task, method, seed), answers in values.items():
        items = {name: [float(value) for value in numbers] for name, numbers in answers.items()}
        means = {name: float(np.mean(numbers)) for name, numbers in items.items()}
        row = {
            "task": task,
            "method": method,
            "seed": seed,
            "loss": 2.0,
            "average": float(np.mean(list(means.values()))),
        } | means
        rows.append(row | {"record": SimpleNamespace(history={"items": items})})
    return pd.DataFrame(rows)


TABLE = records(
    {
        ("a", "base", 0): {"arc": [0, 0, 1, 1], "qa": [0.5, 0.5]},
        ("a", "lora", 0): {"arc": [0, 0, 1, 1], "qa": [0.4, 0.6]},
        ("a", "lora", 1): {"arc": [0, 0, 1, 0], "qa": [0.4, 0.6]},
        ("a", "glora", 0): {"arc": [1, 0, 1, 1], "qa": [0.5, 0.7]},
        ("a", "glora", 1): {"arc": [1, 0, 1, 0], "qa": [0.5, 0.7]},
        ("b", "lora", 0): {"arc": [1, 1, 1, 1], "qa": [0.5, 0.5]},
    }
)


def test_the_table_has_means_over_seeds_with_n():
    found = language.table(TABLE, ["arc", "qa"]).set_index(["task", "method"])
    assert found.loc[("a", "lora"), "arc"] == pytest.approx(100 * (0.5 + 0.25) / 2)
    assert found.loc[("a", "lora"), "n"] == 2
    assert found.loc[("a", "glora"), "average"] == pytest.approx(100 * (0.625 + 0.6) / 2)
    assert np.isnan(found.loc[("b", "lora"), "sd"])


def test_paired_differences_are_over_the_same_questions():
    (row,) = language.paired(TABLE, "glora", "lora").itertuples()
    assert row.task == "a"
    assert row.difference == pytest.approx(100 * (0.25 + 0.1) / 2)
    error = 100 * np.sqrt(np.var([1, 0, 0, 0], ddof=1) / 4 + 0) / 2  # the second benchmark's differences are equal
    assert (row.low, row.high) == pytest.approx((row.difference - 1.96 * error, row.difference + 1.96 * error))
    assert (row.n, row.questions) == (2, 6)


def test_the_untrained_model_stands_beside_every_seed_and_task():
    found = language.paired(TABLE, "lora", "base").set_index("task")
    assert list(found.index) == ["a", "b"]
    assert found.loc["a", "n"] == 2
    assert found.loc["b", "difference"] == pytest.approx(100 * (0.5 + 0) / 2)
    assert language.paired(TABLE, "glora_weight", "base").empty
    assert language.paired(TABLE, "glora", "glora_weight").empty


def test_all_trainings_count_over_questions_and_over_trainings():
    questions, trainings, asked = language.over_sets(TABLE, "lora", "base")
    assert (trainings.n, asked) == (3, 6)
    each = [0, 100 * (-0.25 + 0) / 2, 100 * (0.5 + 0) / 2]  # a: two seeds, b: one
    assert questions.mean == pytest.approx(np.mean(each))
    assert trainings.mean == pytest.approx(np.mean(each))
    assert trainings.low < 0 < trainings.high
    assert questions.low < questions.mean < questions.high
    nothing, _, asked = language.over_sets(TABLE, "glora", "glora_weight")
    assert (nothing.n, asked) == (0, 0)


def test_standard_errors_are_those_of_means_over_questions():
    errors = language.standard_errors(TABLE["record"][0])
    assert errors["arc"] == pytest.approx(100 * np.std([0, 0, 1, 1], ddof=1) / 2)
    assert errors["average"] == pytest.approx(errors["arc"] / 2)  # the other benchmark's is 0


@torch.no_grad()
def test_the_fork_s_merge_is_the_layer_only_where_the_weight_or_c_does_not_change():
    net = attention.glora(tiny(), rank=2)
    layer = net.layer(net.layer_names[0])
    for p in layer.parameters():
        p.normal_()
    for choice, right in (
        (Choice(A="lora2", C="vector", E="vector"), False),
        (Choice(B="vector", C="lora2"), False),
        (Choice(C="vector", E="scalar"), True),
        (Choice(A="lora2", B="lora2", E="vector"), True),
    ):
        layer.use(choice)
        W, b = language.merged_by_the_fork(layer)
        expected = layer.effective()
        assert torch.equal(W, expected[0])
        assert torch.allclose(b, expected[1], atol=1e-5) == right


def test_a_step_is_as_many_texts_as_are_accumulated():
    record = SimpleNamespace(
        history={"train": [{}, {}]},
        settings={"batch_size": 4, "accumulate": 2},
        metrics={"n_train": 33},
        cost={"seconds_train": 20.0},
    )
    assert language.seconds_a_step(record) == 20 / (2 * 5)
    record.history = {}
    assert np.isnan(language.seconds_a_step(record))


def test_a_record_stands_beside_what_each_place_has_published():
    record = SimpleNamespace(history={"items": {"arc": [0, 1, 1, 1], "arc_easy": [1, 0], "other": [1, 1]}})
    published = pd.DataFrame(
        {"benchmark": ["arc", "arc", "arc_average"], "place": ["a", "b", "b"], "value": [70.0, 60.0, 50.0]}
    )
    found = language.beside_published(record, published)
    assert found.loc["arc", ["ours", "n", "a", "b"]].tolist() == [75, 4, 70, 60]
    assert found.loc["arc_average", "ours"] == (75 + 50) / 2
    assert found.loc["arc_average", "b"] == 50
    assert np.isnan(found.loc["other", "a"])
