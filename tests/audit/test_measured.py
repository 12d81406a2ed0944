"""Runs at another scale: the rule of the intervals, and the checks on records that the tests write."""

import random

import pandas as pd
import pytest

from glora_lib import audit
from glora_lib.audit import checklist, desk, intervals, judge
from glora_lib.glora.space import forms
from glora_lib.measures.origin import by_pip_alone, source
from glora_lib.runs import record
from glora_lib.runs.record import Record, all_results

SOURCES = ("mnist_5k", "clevr_count", "dsprites_loc", "koeppen_5")  # of four sources of images


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    """An empty folder of records."""
    monkeypatch.setattr(record, "ROOT", tmp_path)


def plant(method: str, tests: dict[str, float], seeds: int = 3, experiment: str = "vtab1k", profile: str = "cpu", **metrics):
    """Save records of a method: task -> test accuracy, the same at every seed but for a little that averages out."""
    config = (
        {"blocks.0": {"A": "lora2", "B": "vector", "C": "none", "D": "none", "E": "none"}}
        if method.startswith("glora")
        else None
    )
    for task, test in tests.items():
        for seed in range(seeds):
            moved = test + 0.001 * (seed - (seeds - 1) / 2)
            Record(
                experiment, task, method, profile, seed,
                {"group": "structured" if task.startswith(("clevr", "dsprites")) else "natural", "epochs": 3,
                 "ranks": [4, 2], "image_size": 42},
                {"test": moved, "n_test": 100, "random_test": [moved - 0.02, moved - 0.03, moved - 0.04]} | metrics, config,
                "val", {"stored": 10_000 + 100 * len(task)}, {"commit": "0" * 40, "dirty": False},
            ).save()  # fmt: skip


def verdict_of(identity: str, profile: str = "cpu") -> pd.Series:
    return pd.Series(desk.judged(audit.claims().loc[identity], profile), index=desk.COLUMNS)


def gaps(*values: float) -> dict[str, float]:
    """Return the accuracies of a method that is ahead of 0.5 by these points, source by source."""
    return {task: 0.5 + value / 100 for task, value in zip(SOURCES, values, strict=False)}


# The rule


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 5.0, "seen here"),
        (-5.0, -0.1, "not seen here"),
        (-0.1, 5.0, "undecided here"),
        (-5.0, 0.1, "undecided here"),
        (0.0, 3.0, "undecided here"),
        (-3.0, 0.0, "undecided here"),
        (float("nan"), float("nan"), "undecided here"),
    ],
)
def test_an_interval_must_lie_beside_zero(low, high, verdict):
    assert judge.seen(low, high) == verdict


def test_no_planted_records_whose_interval_spans_zero_are_ever_seen_or_not_seen():
    """Random differences of two to four sources, both signs: the verdict is what the interval says, and nothing else."""
    rng, met = random.Random(0), set()
    for _ in range(60):
        values = [rng.uniform(-6, 6) + rng.choice((-8, 0, 8)) for _ in range(rng.choice((1, 2, 3, 4)))]
        pairs = pd.DataFrame({"task": SOURCES[: len(values)], "difference": values, "n": 3, "low": -1.0, "high": 1.0})
        found, over = intervals.judged(pairs, "cpu"), intervals.over_sources(pairs)
        met.add(found.verdict)
        if len(values) == 1 or over.low <= 0 <= over.high:
            assert found.verdict == "undecided here", found
        else:
            assert found.verdict == ("seen here" if over.mean > 0 else "not seen here"), found
    assert met == {"seen here", "not seen here", "undecided here"}


def test_tasks_of_one_source_count_once():
    """MNIST's two tasks at +1 and +3 are one source at +2: 2, 4 and 6 give 4 ± 4.303 * 2 / sqrt(3) = 4 ± 4.97."""
    tasks = ["mnist_5k", "mnist_m", "clevr_count", "koeppen_5"]
    pairs = pd.DataFrame({"task": tasks, "difference": [1.0, 3.0, 4.0, 6.0], "n": 3})
    found = intervals.judged(pairs, "cpu")
    assert found.ours == "+4.0 [-1.0, 9.0] over 3 sources (12 pairs)"
    assert found.by_task == "+3.5 [0.2, 6.8] over 4 tasks"  # beside zero, and not what decides
    assert found.verdict == "undecided here"
    assert found.visible == "5.0 points"
    assert intervals.judged(pairs.assign(difference=4.0), "cpu").verdict == "seen here"


def test_what_pip_does_not_install_is_left_out_of_its_own_column():
    pairs = pd.DataFrame({"task": ["mnist_5k", "fashion_mnist", "cifar10"], "difference": [1.0, 2.0, 3.0], "n": 3})
    assert intervals.judged(pairs, "cpu").by_pip == "+1.0 over 1 source"
    assert intervals.judged(pairs[:1], "cpu").by_pip == ""
    names = ("mnist_5k-4shot-s0", "mnist_5k on optdigits", "tuxpaint_9 on openclipart_9", "tiny_imagenet_food 4", "cifar10")
    assert [by_pip_alone(name) for name in names] == [True, True, False, False, False]
    assert [source(name) for name in names] == ["MNIST", "MNIST", "Tuxpaint", "Tiny-ImageNet", "CIFAR"]


def test_a_task_needs_the_seeds_of_its_profile():
    pairs = pd.DataFrame({"task": ["mnist_5k", "koeppen_5"], "difference": [2.0, -9.0], "n": [3, 1], "low": -1.0, "high": 5.0})
    found = intervals.judged(pairs, "cpu")
    assert (found.ours, found.verdict) == ("+2.0 over 1 source, over its seeds [-1.0, 5.0] (3 pairs)", "undecided here")
    assert intervals.judged(pairs.assign(n=2), "cpu")[:2] == ("2 of 3 seeds (cpu)", "not run")
    assert intervals.judged(pairs, "smoke")[:2] == ("the smoke profile is compared with nothing", "not run")


# The checks


def test_without_records_measured_claims_are_not_run():
    table = audit.verdicts("cpu")
    records = table["kind"].isin(["measured", "paper-scale"]) & (table["basis"] == "records")
    assert set(table.loc[records, "verdict"]) == {"not run"}


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [((3, 4, 5, 6), "seen here"), ((-3, -4, -5, -6), "not seen here"), ((-3, 4, 5, -2), "undecided here"),
     ((-9, 1, 1, 1), "undecided here"), ((9, -1, -1, -1), "undecided here"), ((5,), "undecided here")],
)  # fmt: skip
def test_ahead_of_a_method(ahead, verdict):
    plant("lora", dict.fromkeys(SOURCES, 0.5))
    plant("glora", gaps(*ahead), evaluations=150)
    row = verdict_of("measured/glora-beats-lora")
    assert row["verdict"] == verdict
    assert row["scale"] == "42 px; 3 epochs, 150 subnets, 0.01 M stored against 3 epochs, 0.01 M stored"
    assert verdict_of("measured/glora-beats-linear")["verdict"] == "not run"
    assert verdict_of("measured/glora-beats-lora", "smoke")["verdict"] == "not run"


def test_controls_come_from_their_experiments():
    plant("glora", gaps(2, 2, 2))
    plant("lora_long", gaps(3, 4, 5), experiment="controls")
    plant("lora_matched", gaps(0, 0, 0.5), experiment="controls")
    plant("glora_random", gaps(1, 1), experiment="controls")
    plant("glora_random", gaps(0, 0, 1.5), experiment="search", seeds=1)
    assert verdict_of("measured/equal-operations")["verdict"] == "undecided here"
    assert verdict_of("measured/equal-operations")["ours"].startswith("-2.0 [-4.5, 0.5] over 3 sources")
    assert verdict_of("measured/equal-size")["verdict"] == "seen here"
    assert verdict_of("search/effective")["ours"].startswith("+1.1 ")  # the mean of both experiments' seeds


def test_the_scale_says_how_many_rates_were_tried_and_a_search_is_held_against_its_own_supernet_s():
    """In the gpu profile, whose rows have several: the better rate against LoRA, the supernet's own against a random search."""
    plant("glora_divided", dict.fromkeys(SOURCES, 0.5), 1, profile="gpu", val=0.5)
    plant("glora_divided-0.0001", dict.fromkeys(SOURCES, 0.6), 1, profile="gpu", val=0.6)
    plant("lora_everywhere", dict.fromkeys(SOURCES, 0.55), 1, profile="gpu", val=0.5)
    plant("glora_random", dict.fromkeys(SOURCES, 0.52), 1, "controls", profile="gpu", val=0.5)
    against_lora, against_random = (verdict_of(f"{name}", "gpu") for name in ("measured/glora-beats-lora", "search/effective"))
    assert against_lora["ours"].startswith("+5.0 ")
    assert "best of 2 rates on val" in against_lora["scale"].split(" against ")[0]
    assert against_random["ours"].startswith("-2.0 ")
    assert "rates" not in against_random["scale"]


def test_found_and_random_subnets():
    plant("glora", gaps(2, 2, 2, 2))
    row = verdict_of("search/ahead-of-random")
    assert (row["verdict"], row["visible"]) == ("seen here", "0.0 points")
    assert row["by_task"].endswith("ahead on 4 of 4")
    plant("glora", gaps(2, 2, 2, 2), random_test=[0.5, 0.49])
    assert verdict_of("search/comparable")["verdict"] == "seen here"
    plant("glora", gaps(2, 2, 2, 2), random_test=[0.5, 0.45])
    row = verdict_of("search/comparable")
    assert row["verdict"] == "not seen here"
    assert "by more than 2 in 12 of 12 runs, by 5.0 at most" in row["ours"]


@pytest.mark.parametrize(("inherited", "verdict"), [(0.498, "seen here"), (0.48, "not seen here"), (0.491, "undecided here")])
def test_what_retraining_earns_is_held_against_a_point(inherited, verdict):
    plant("glora_retrained", gaps(0.0, 0.3, -0.3, 0.0), experiment="controls", inherited_test=inherited)
    row = verdict_of("search/no-retraining")
    assert row["verdict"] == verdict
    assert row["ours"].startswith(f"{100 * inherited - 49:+.1f} [")


@pytest.mark.parametrize(
    ("left_out", "verdict"), [(("C",), "undecided here"), (("D", "E"), "seen here"), (("A", "B"), "not seen here")]
)
def test_the_share_of_none_is_held_against_chance(left_out, verdict):
    rng = random.Random(1)
    for task in SOURCES:
        for seed in range(3):
            layers = {str(i): {tensor: rng.choice(forms(tensor, (4, 2))) for tensor in "ABCDE"} for i in range(60)}
            config = {name: choice | dict.fromkeys(left_out, "none") for name, choice in layers.items()}
            Record(
                "vtab1k", task, "glora", "cpu", seed, {"group": "natural", "ranks": [4, 2]}, {"test": 0.8, "n_test": 9},
                config, "val", {"stored": 10}, {"commit": "0" * 40, "dirty": False},
            ).save()  # fmt: skip
    assert verdict_of("figure4/none")["verdict"] == verdict


def test_groups_of_tasks_are_compared_over_their_sources():
    plant("glora", gaps(0, 0, 0, 0))
    row = verdict_of("figure3/structured")
    assert row["verdict"] == "undecided here"
    assert "2 against 2 sources" in row["ours"]
    assert verdict_of("figure3/structured", "smoke")["verdict"] == "not run"


def test_few_shot_points_at_chance_are_left_out():
    def point(task, method, test, n_train):
        for seed in range(3):
            Record(
                "few_shot", f"{task}-2shot-s{seed}", method, "cpu", seed, {}, {"test": test, "n_test": 10, "n_train": n_train},
                None, "nothing", {}, {"commit": "0" * 40, "dirty": False},
            ).save()  # fmt: skip

    for task, probe, ahead in (("mnist_5k", 0.3, 0.02), ("landcover_10", 0.3, 0.03), ("tiny_imagenet_pets", 0.15, -0.5)):
        point(task, "linear", probe, 20)  # ten classes: chance is 0.1
        point(task, "lora", 0.6, 20)
        point(task, "glora", 0.6 + ahead, 20)
    row = verdict_of("few-shot/measured")
    assert row["ours"] == "+2.5 [-3.9, 8.9] over 2 sources (6 pairs)"


def test_targets_of_one_training_are_one_source():
    for task in SOURCES[:2]:
        for seed in range(3):
            for method, test in (("glora", 0.6), ("lora", 0.5)):
                metrics = {"test": 0.9, "n_test": 9, "shift_a": test, "n_a": 9, "shift_b": test - 0.2, "n_b": 9}
                Record(
                    "domain_generalization", task, method, "cpu", seed, {}, metrics, None, "nothing", {},
                    {"commit": "0" * 40, "dirty": False},
                ).save()  # fmt: skip
    row = verdict_of("table3/measured")
    assert row["ours"] == "+10.0 [10.0, 10.0] over 2 trainings (12 pairs)"
    assert row["by_task"] == "+10.0 [10.0, 10.0] over 4 targets"


@pytest.mark.parametrize(
    ("fused", "verdict"),
    [
        ([1.0, 1.001, 0.999, 1.0], "seen here"),
        ([1.1, 1.101, 1.099, 1.1], "not seen here"),
        ([0.8, 1.3, 0.9, 1.2], "not testable here"),
    ],
)
def test_speed_is_judged_where_the_noise_is_narrower_than_the_claim(fused, verdict):
    Record(
        "benchmark", "random_images", "all", "cpu", 0, {"image_size": 98, "batch": 64}, {}, None, "nothing", {},
        {"commit": "0" * 40, "dirty": False, "processor": "a machine"},
        {"steps": {"float32": {"forward, base": [1.0] * 4, "forward, fused": fused}}},
    ).save()  # fmt: skip
    assert verdict_of("table4/throughput")["verdict"] == verdict
    Record(
        "benchmark", "random_images", "all", "cpu", 1, {"image_size": 98, "batch": 64}, {}, None, "nothing", {},
        {"commit": "0" * 40, "dirty": False, "processor": "a noisy machine"},
        {"steps": {"float32": {"forward, base": [1.0] * 4, "forward, fused": [0.2, 4.0, 0.2, 4.0]}}},
    ).save()  # fmt: skip
    assert verdict_of("table4/throughput")["verdict"] == verdict


def test_a_paper_scale_average_needs_all_tasks():
    plant("glora", {"mnist_5k": 0.78}, profile="paper", seeds=1)
    assert tuple(verdict_of("paper-scale/average")[["ours", "verdict"]]) == ("1 of 19 tasks", "not run")
    for task in range(19):
        for group, test in (("natural", 0.78), ("structured", 0.79)):
            Record(
                "vtab1k", f"{group}{task}", "glora", "paper", 0, {"group": group}, {"test": test}, None,
                "val", {}, {"commit": "0" * 40, "dirty": False},
            ).save()  # fmt: skip
    assert tuple(verdict_of("paper-scale/average")[["ours", "verdict"]]) == ("78.5", "match")


def test_the_checklist_counts_a_few_shot_point_as_one_row():
    plant("glora", {"mnist_5k": 0.5})
    plant("linear", {"mnist_5k": 0.5}, seeds=1)
    for seed in range(3):
        Record(
            "few_shot", f"mnist_5k-4shot-s{seed}", "lora", "cpu", seed, {}, {"test": 0.5, "n_test": 9}, None,
            "nothing", {}, {"commit": "0" * 40, "dirty": False},
        ).save()  # fmt: skip
    seeds = checklist.seeds_of_rows(all_results("cpu"))
    assert sorted(seeds) == [1, 3, 3]


def test_at_the_paper_s_schedule_validation_chose_the_rate_and_controls_belong_to_their_form():
    """On test the other rate and the other form are better, which must not count."""
    plant("lora", gaps(0, 0, 0, 0), profile="gpu", seeds=1)
    plant("glora", gaps(2.0, 2.1, 1.9, 2.0), profile="gpu", seeds=1, val=0.6)
    plant("glora-0.0001", gaps(9.0, 9.1, 8.9, 9.0), profile="gpu", seeds=1, val=0.5)
    plant("glora_divided", gaps(-1.0, -1.1, -0.9, -1.0), profile="gpu", seeds=1, val=0.6)
    plant("lora_matched", gaps(0, 0, 0, 0), profile="gpu", seeds=1)
    seen = audit.runs("gpu").set_index("id")
    assert seen.loc["measured/glora-beats-lora", "ours"].startswith("+2.0 [")
    assert seen.loc["measured/glora-beats-lora", "verdict"] == "seen here"
    assert seen.loc["measured/equal-size", "ours"].startswith("-1.0 [")
    assert "not run" not in set(seen["verdict"])
    assert "measured/glora-beats-fact" not in seen.index
    assert audit.runs("cpu").empty


def test_at_the_paper_s_schedule_another_form_stands_for_one_without_records():
    plant("lora_everywhere", gaps(0, 0, 0, 0), profile="gpu", seeds=1)
    plant("glora_divided", gaps(2.0, 2.1, 1.9, 2.0), profile="gpu", seeds=1, val=0.6)
    row = audit.runs("gpu").set_index("id").loc["measured/glora-beats-lora"]
    assert row["ours"].startswith("+2.0 [")
    assert row["evidence"] == "notebooks/10_vtab1k.ipynb#At-the-paper's-schedule"
    plant("lora", gaps(5.0, 5.0, 5.0, 5.0), profile="gpu", seeds=1)
    assert audit.runs("gpu").set_index("id").loc["measured/glora-beats-lora", "ours"].startswith("-3.0 [")
