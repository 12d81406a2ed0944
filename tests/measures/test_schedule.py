"""GLoRA's rate is chosen on validation images alone; the budget curve's points and differences."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from glora_lib.measures.schedule import beside, chosen, comparable, curve, gap, held_against
from glora_lib.measures.table import paired
from glora_lib.runs.profiles import GPU


def row(task: str, method: str, val: float, test: float, seed: int = 0, epochs: int = 100, rate: float = 5e-4) -> dict:
    record = SimpleNamespace(settings={"epochs": epochs, "learning_rate": rate})
    return {"task": task, "method": method, "seed": seed, "val": val, "test": test, "record": record}


RECORDS = pd.DataFrame(
    [
        row("a", "lora", 0.5, 0.5),
        row("a", "glora", 0.6, 0.9),
        row("a", "glora-0.0001", 0.7, 0.1, rate=1e-4),  # better on val, worse on test: it is the one that counts
        row("b", "glora", 0.6, 0.4),
        row("b", "glora-0.0001", 0.6, 0.8, rate=1e-4),  # a tie: the profile's own
        row("a", "glora", 0.6, 0.5, seed=1),
        row("a", "glora_divided", 0.2, 0.3),
        row("a", "lora_everywhere", 0.1, 0.2),
    ]
)


def test_the_rate_is_chosen_on_validation_images_by_task_and_seed():
    table = chosen(RECORDS).set_index(["task", "method", "seed"])
    assert table.loc[("a", "glora", 0), "test"] == 0.1
    assert table.loc[("a", "glora", 0), "rate"] == 1e-4
    assert table.loc[("b", "glora", 0), "test"] == 0.4
    assert table.loc[("a", "glora", 1), "rates"] == 1
    assert table.loc[("b", "glora", 0), "rates"] == 2
    assert {"lora", "lora_everywhere", "glora", "glora_divided"} == set(table.index.get_level_values("method"))
    assert len(table) == 6
    assert chosen(RECORDS.iloc[:0]).empty


def test_tables_of_several_experiments_may_count_their_rows_alike():
    table = chosen(pd.concat([RECORDS, pd.DataFrame([row("a", "glora_random", 0.1, 0.6)])]))
    assert table.set_index(["method", "task", "seed"]).loc[("glora_random", "a", 0), "test"] == 0.6
    assert len(table) == 7


@pytest.mark.parametrize(("against", "expected"), [("glora_random", 30.0), ("lora", -40.0)])
def test_a_search_of_a_supernet_is_held_against_another_of_the_same_one(against, expected):
    """The other search had the supernet of the profile's own rate, whichever rate the row takes."""
    records = pd.concat([RECORDS, pd.DataFrame([row("a", "glora_random", 0.1, 0.6)])])
    pairs = paired(held_against(records, against), "glora", against)
    assert pairs["difference"].tolist() == [pytest.approx(expected)]


def test_the_linear_probe_s_rate_is_chosen_too_and_its_name_stays():
    rows = [row("a", "linear", 0.5, 0.9, rate=1e-3), row("a", "linear-0.01", 0.6, 0.4, rate=1e-2), row("b", "linear", 0.5, 0.3)]
    table = chosen(pd.DataFrame([*rows, row("a", "lora_everywhere", 0.9, 0.9)])).set_index(["method", "task"])
    assert sorted(table.index) == [("linear", "a"), ("linear", "b"), ("lora_everywhere", "a")]
    assert table.loc[("linear", "a"), ["test", "rate", "rates"]].tolist() == [0.4, 1e-2, 2]
    assert table.loc[("linear", "b"), "rates"] == 1


def test_two_profiles_stand_beside_each_other_where_they_test_the_same_images():
    long = pd.DataFrame([row("a", "lora_everywhere", 0, 0.8), row("b", "lora_everywhere", 0, 0.7), row("a", "ssf", 0, 0.9)])
    short = pd.DataFrame(
        [row("a", "lora", 0, test, seed) for seed, test in enumerate((0.5, 0.6, 0.7))] + [row("b", "lora", 0, 0)]
    )
    long, short = long.assign(n_test=100), short.assign(n_test=[100, 100, 100, 50])
    (found,) = beside(long, short, {"lora_everywhere": "lora", "ssf": "ssf"}).to_dict("records")
    assert (found["method"], found["task"], found["n"]) == ("lora_everywhere", "a", 1)
    assert (found["longer"], found["shorter"], found["difference"]) == pytest.approx((80, 60, 20))
    assert beside(long.iloc[:0], short, {"ssf": "ssf"}).empty


def test_the_curve_takes_the_main_table_s_runs_as_points():
    labels = [(method, epochs) for method in ("glora_divided", "repadapter") for epochs in (14, 50)]
    budget = pd.DataFrame([row("cifar10", f"{method}-{epochs}", 0, 0.01 * epochs, epochs=epochs) for method, epochs in labels])
    others = (("cifar10", "repadapter", 0.7), ("cifar", "repadapter", 0.9), ("cifar10", "lora", 0.8))
    main = pd.DataFrame([row(task, method, 0, test) for task, method, test in others])
    points = curve(budget, main, GPU)
    shown = points[points["method"] == "repadapter"]
    assert shown[["epochs", "test"]].to_numpy(float) == pytest.approx(np.array([[14, 14], [50, 50], [100, 70]]))
    difference = gap(points, "glora_divided", "repadapter")
    assert difference[["epochs", "difference"]].to_numpy().tolist() == [[14, 0], [50, 0]]
    assert curve(budget.iloc[:0], main, GPU).empty
    assert gap(points, "glora", "repadapter").empty


@pytest.mark.parametrize("method", ["lora", "glora"])
def test_a_table_with_one_kind_alone(method):
    assert len(chosen(RECORDS[RECORDS["method"] == method])) == {"lora": 1, "glora": 3}[method]


def test_means_along_the_curve_are_of_the_tasks_that_have_every_point():
    points = [("a", "lora", 14, 0), ("a", "lora", 14, 1), ("a", "glora", 500, 0), ("b", "lora", 14, 0), ("c", "glora", 500, 0)]
    points = pd.DataFrame(points, columns=["task", "method", "epochs", "seed"])
    assert set(comparable(points)["task"]) == {"a"}
    assert len(comparable(points)) == 3
    assert len(comparable(points.iloc[3:])) == 2  # nothing is comparable: all are shown, with their n
    assert comparable(points.iloc[:0]).empty
