"""Verdicts follow from numbers: a changed number changes its own verdict and no other."""

import random
import re
import shutil

import pandas as pd
import pytest

from glora_lib import audit
from glora_lib.audit import desk, judge, measured, protocol, sources
from glora_lib.glora.space import forms
from glora_lib.paths import DATA, NOTEBOOKS, REPORTED
from glora_lib.runs import record
from glora_lib.runs.profile import CPU
from glora_lib.runs.record import Record

LONGEST_QUOTE = 200  # characters
EXACT_KINDS = ("arithmetic", "equation", "count", "code", "simulation", "objection")


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A copy of the claims and reported numbers that a test may edit."""
    shutil.copy(DATA / "claims.csv", tmp_path)
    shutil.copytree(REPORTED, tmp_path / "reported")
    monkeypatch.setattr(sources, "DATA", tmp_path)
    monkeypatch.setattr(sources, "REPORTED", tmp_path / "reported")
    return tmp_path


@pytest.fixture(scope="module")
def table():
    """The verdicts of the smoke profile, on the data as they are."""
    return audit.verdicts("smoke")


@pytest.fixture
def own_records(tmp_path, monkeypatch):
    """An empty folder of records."""
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return tmp_path


def edit(path, identity: str, column: str, value: str) -> None:
    """Change one cell of a CSV file."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert (table["id"] == identity).sum() == 1
    table.loc[table["id"] == identity, column] = value
    table.to_csv(path, index=False)


def changed(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Return the ids whose verdict differs."""
    assert before["id"].tolist() == after["id"].tolist()
    return before["id"][before["verdict"] != after["verdict"]].tolist()


@pytest.mark.parametrize(("ours", "verdict"), [(10.1, "match"), (9.9, "match"), (10.2, "near"), (10.21, "off"), (0.0, "off")])
def test_a_number_matches_is_near_or_is_off(ours, verdict):
    assert audit.number(10.0, ours, 0.1) == verdict


def test_a_count_or_a_statement_holds_or_not():
    claim = pd.Series({"reported": "1,050", "tolerance": "0"})
    assert judge.count(lambda: 1050)(claim, "cpu") == ("1,050", "match")
    assert judge.count(lambda: 1051)(claim, "cpu")[1] == "contradicted"
    assert judge.statement(lambda: (False, "found"))(claim, "cpu") == ("found", "contradicted")


def test_every_claim_has_a_check_or_a_stated_reason_and_not_both():
    claims = audit.claims()
    assert claims.index.is_unique
    assert len(claims) >= 60
    reasons = claims["why_not"] != ""
    assert set(claims.index[~reasons]) == set(audit.CHECKS)
    assert not set(claims.index[reasons]) & set(audit.CHECKS)
    assert (claims.loc[reasons, "basis"] == "none").all()


def test_claims_are_filled_in():
    claims = audit.claims()
    assert set(claims["source"]) == set(audit.PAPERS)
    assert set(claims["kind"]) <= set(audit.KINDS)
    assert set(claims["basis"]) <= set(audit.BASES)
    assert (claims[["place", "quote", "check", "notebook"]] != "").all(axis=None)
    assert (claims["quote"].str.len() <= LONGEST_QUOTE).all()
    assert pd.to_numeric(claims["tolerance"]).ge(0).all()
    assert claims.loc[claims["why_not"] == "", "reported"].ne("").all()
    both = claims[claims["quote"].str.contains("14 out of 19")]
    assert set(both["source"]) == {"glora-iclr", "glora-v1"}


def test_reported_numbers_have_a_place_a_unit_a_tolerance_and_a_source():
    for path in sorted(REPORTED.glob("*.csv")):
        table = audit.reported(path.stem)
        assert {"id", "place", "value", "unit", "tolerance", "source"} <= set(table), path.name
        assert table["id"].is_unique, path.name
        assert (table[["place", "unit", "source"]] != "").all(axis=None), path.name


def test_evidence_leads_to_a_section_that_exists():
    for _, claim in audit.claims().iterrows():
        path, _, section = desk.evidence(claim).removeprefix("notebooks/").partition("#")
        text = (NOTEBOOKS / path).read_text(encoding="utf-8")
        headings = {heading.replace(" ", "-") for heading in re.findall(r'"## (.+?)(?:\\n)?"', text)}
        assert not section or section in headings, claim.name


def test_all_verdicts_are_of_the_known_kinds_and_nothing_is_empty(table):
    assert set(table["verdict"]) <= set(audit.VERDICTS)
    assert not table.isna().any(axis=None)
    assert (table[["ours", "verdict", "evidence"]] != "").all(axis=None)
    assert table["id"].is_unique


def test_exact_claims_are_decided(table):
    exact = table[table["kind"].isin(EXACT_KINDS)]
    open_ = exact[exact["verdict"].isin(["not run", "direction"])]
    assert open_["id"].tolist() == []
    reasons = audit.claims()["why_not"]
    assert set(exact.loc[exact["verdict"] == "not testable", "id"]) <= set(reasons[reasons != ""].index)


def test_exact_claims_come_out_as_the_mathematics_has_them(table):
    verdict = table.set_index("id")["verdict"]
    expected = {
        "space/per-layer": "match",
        "space/product": "match",
        "space/subnets": "contradicted",
        "space/72": "contradicted",
        "equation/10-product": "contradicted",
        "equation/10-product-v1": "match",
        "equation/10-code": "match",
        "fusion/bias": "match",
        "fusion/no-bias": "contradicted",
        "superset/all": "contradicted",
        "superset/linear-methods": "match",
        "table1/14-of-19": "contradicted",
        "table1/2.9": "off",
        "table2/averages": "contradicted",
        "table3/imagenet-a": "off",
        "table3/imagenet-sketch": "off",
        "table6/averages": "match",
        "size/noah": "match",
        "size/trained-0.86": "off",
        "superlora/table3-qv": "off",
        "superlora/table3-qv-binary": "match",
        "search/evaluations": "match",
        "table1/average/lora-0.29": "near",
        "table2/average/llama-2-7b-glora-sharegpt": "near",
    }
    assert verdict[list(expected)].to_dict() == expected


@pytest.mark.parametrize(
    ("identity", "value"),
    [
        ("space/per-layer", "433"),
        ("size/lora", "0.31"),
        ("table1/14-of-19", "13"),
        ("table3/imagenet-a", "93"),
        ("table4/vpt-flops", "5.7"),
        ("superlora/lowest-lora", "60,000"),
    ],
)
def test_a_changed_claim_changes_exactly_its_verdict(table, own_data, identity, value):
    edit(own_data / "claims.csv", identity, "reported", value)
    assert changed(table, audit.verdicts("smoke")) == [identity]


@pytest.mark.parametrize(
    ("file", "identity", "value", "verdicts"),
    [
        ("table1_vtab1k", "table1/noah-0.36/average", "70.0", ["table1/average/noah-0.36"]),
        ("table1_vtab1k", "table1/lora-0.29/average", "74.6", ["table1/averages", "table1/average/lora-0.29"]),
        ("table2_llm", "table2/llama-2-7b/glora-sharegpt/average", "56.0",
         ["table2/averages", "table2/average/llama-2-7b-glora-sharegpt"]),
        ("table4_inference", "table4/noah/extra_params", "0.36", ["table4/noah-params"]),
        ("settings", "settings/batch-language", "64", ["budget/constant-batch"]),
        ("fig2_few_shot", "fig2/glora/food101/1", "28", ["few-shot/food101"]),
    ],
)  # fmt: skip
def test_a_changed_number_of_the_papers_changes_exactly_what_rests_on_it(table, own_data, file, identity, value, verdicts):
    edit(own_data / "reported" / f"{file}.csv", identity, "value", value)
    assert changed(table, audit.verdicts("smoke")) == verdicts


def test_filters_take_what_is_there_and_name_what_is_valid(table):
    chosen = audit.select(table, source="superlora", verdict="off")
    assert set(chosen["source"]) == {"superlora"}
    assert set(chosen["verdict"]) == {"off"}
    assert audit.select(table).equals(table)
    with pytest.raises(ValueError, match=r"no claim has the kind 'poem'; valid: arithmetic, code"):
        audit.select(table, kind="poem")


def test_the_tally_counts_every_claim_once(table):
    counted = audit.tally(table)
    assert counted.loc["all", "all"] == len(table)
    assert counted.drop(columns="all").loc["all"].to_dict() == {k: (table["verdict"] == k).sum() for k in counted.columns[:-1]}


def test_what_the_papers_leave_out_cannot_be_read_as_a_number():
    with pytest.raises(ValueError, match="do not give 'hours of search'"):
        sources.setting("hours of search")
    assert protocol.settings_missing("hours") == ["hours of supernet training", "hours of search"]


@pytest.mark.parametrize("experiment", ["vtab1k", "domain_generalization", "few_shot"])
def test_verdicts_rest_on_records_with_the_settings_of_the_profile(experiment):
    """The verdicts read every record of an experiment, the notebooks those of the profile's settings: they must be the same."""
    records = record.results(experiment, "cpu")
    assert len(records) > 0
    for row in records.itertuples():
        expected = CPU.for_method(row.method).settings()
        if experiment == "few_shot":
            del expected["epochs"]  # notebook 11 trains longer, by its parameter `stretch`
        assert {name: row.record.settings.get(name) for name in expected} == expected, row.record.id


# Measured claims, on records that the tests write


def measure(method: str, seed: int, test: float, experiment: str = "vtab1k", profile: str = "cpu", **settings) -> None:
    """Save a record of one task."""
    config = {"blocks.0": {"A": "lora2", "B": "vector", "C": "none", "D": "none", "E": "none"}} if method == "glora" else None
    Record(
        experiment, "mnist_5k", method, profile, seed,
        {"group": "natural", "epochs": 3, "ranks": [4, 2]} | settings,
        {"test": test, "n_test": 100, "random_test": [test - 0.01]}, config,
        "val", {"stored": 10, "seconds_train": 3600.0, "peak_memory_mb": 1024.0}, {"commit": "0" * 40, "dirty": False},
    ).save()  # fmt: skip


def verdict_of(identity: str, profile: str = "cpu") -> tuple[str, str]:
    return desk.judged(audit.claims().loc[identity], profile)[3:5]


def test_without_records_measured_claims_are_not_run(own_records):
    table = audit.verdicts("cpu")
    records = table["kind"].isin(["measured", "paper-scale"]) & (table["basis"] == "records")
    assert set(table.loc[records, "verdict"]) == {"not run"}


def test_three_seeds_give_a_direction_and_two_do_not(own_records):
    for seed in range(2):
        measure("glora", seed, 0.8)
        measure("lora", seed, 0.7)
    ours, verdict = verdict_of("measured/glora-beats-lora")
    assert verdict == "not run"
    assert "2 of 3 seeds" in ours
    measure("glora", 2, 0.8)
    measure("lora", 2, 0.7)
    assert verdict_of("measured/glora-beats-lora") == (
        "+10.0 points [10.0, 10.0] over 3 seeds of 1 task (cpu, 3 pairs)",
        "direction",
    )
    assert verdict_of("measured/all-previous")[1] == "direction"
    for seed in range(3):
        measure("lora", seed, 0.9)
    assert verdict_of("measured/glora-beats-lora")[1] == "contradicted"


def test_tasks_with_enough_seeds_decide_and_the_others_wait():
    pairs = pd.DataFrame({"task": ["a", "b"], "difference": [2.0, -9.0], "n": [3, 1], "low": -1.0, "high": 5.0})
    assert measured.compared(pairs, "cpu") == (
        "+2.0 points [-1.0, 5.0] over 3 seeds of 1 task (cpu, 3 pairs); the interval spans zero",
        "direction",
    )
    found, verdict = measured.compared(pairs.assign(n=[2, 1]), "cpu")
    assert found == "-3.5 points [-73.4, 66.4] over 2 tasks (cpu, 3 pairs); the interval spans zero; 1 of 3 seeds"
    assert verdict == "not run"


def test_the_interval_is_that_of_the_units_and_each_counts_once():
    """Means 2, 4 and 6: mean 4, sd 2, so that the interval is 4 ± 4.303 * 2 / sqrt(3) = 4 ± 4.97; without its spread 4 ± 0."""
    pairs = pd.DataFrame({"task": list("abcd"), "set": list("xxyz"), "difference": [1.0, 3.0, 4.0, 6.0], "n": 3})
    assert measured.compared(pairs, "cpu", unit="set")[0] == (
        "+4.0 points [-1.0, 9.0] over 3 sets (cpu, 12 pairs); the interval spans zero"
    )
    assert measured.compared(pairs.assign(difference=4.0), "cpu", unit="set")[0] == (
        "+4.0 points [4.0, 4.0] over 3 sets (cpu, 12 pairs)"
    )
    assert measured.compared(pairs[:2], "cpu", unit="set")[0] == "+2.0 points over 1 set (cpu, 6 pairs)"  # no interval of one


@pytest.mark.parametrize(("left_out", "verdict"), [(("C",), "contradicted"), (("D", "E"), "direction"), ((), "contradicted")])
def test_the_share_of_none_is_held_against_chance(own_records, left_out, verdict):
    rng = random.Random(0)
    layers = {str(i): {tensor: rng.choice(forms(tensor, (4, 2))) for tensor in "ABCDE"} for i in range(60)}
    config = {name: choice | dict.fromkeys(left_out, "none") for name, choice in layers.items()}
    for seed in range(3):
        Record(
            "vtab1k", "mnist_5k", "glora", "cpu", seed, {"group": "natural", "ranks": [4, 2]}, {"test": 0.8, "n_test": 9},
            config, "val", {"stored": 10}, {"commit": "0" * 40, "dirty": False},
        ).save()  # fmt: skip
    assert verdict_of("figure4/none")[1] == verdict


def test_smoke_is_never_compared_with_the_paper(own_records):
    for seed in range(3):
        measure("glora", seed, 0.8, profile="smoke")
        measure("lora", seed, 0.7, profile="smoke")
    ours, verdict = verdict_of("measured/glora-beats-lora", "smoke")
    assert (ours, verdict) == ("the smoke profile is compared with nothing", "not run")
    assert verdict_of("measured/glora-beats-lora", "cpu")[1] == "not run"


def test_an_equal_budget_needs_as_many_epochs(own_records):
    for seed in range(3):
        measure("glora", seed, 0.8, epochs=5)
        measure("lora", seed, 0.7, epochs=1)
    assert verdict_of("measured/equal-budget")[1] == "not run"
    for seed in range(3):
        measure("lora_long", seed, 0.81, experiment="controls", epochs=5)
    assert verdict_of("measured/equal-budget") == (
        "-1.0 points [-1.0, -1.0] over 3 seeds of 1 task (cpu, 3 pairs)",
        "contradicted",
    )


def test_evolution_is_held_against_random_search_of_another_experiment(own_records):
    for seed in range(3):
        measure("glora", seed, 0.8)
        measure("glora_random", seed, 0.79, experiment="search" if seed else "controls")  # notebook 5 and 10 have one each
    assert verdict_of("search/effective") == ("+1.0 points [1.0, 1.0] over 3 seeds of 1 task (cpu, 3 pairs)", "direction")
    assert verdict_of("search/comparable")[1] == "direction"
    assert verdict_of("figure4/none") == (
        "none: 100 % of D and E, 0 % of A and B, by chance 33 %, 20 % (cpu, 3 runs)",
        "direction",
    )


def test_few_shot_seeds_are_seeds_and_shifts_are_tasks(own_records):
    for seed in range(3):
        for method, test in (("glora", 0.6), ("lora", 0.5)):
            Record(
                "few_shot", f"mnist_5k-2shot-s{seed}", method, "cpu", seed, {}, {"test": test, "n_test": 10}, None,
                "nothing", {}, {"commit": "0" * 40, "dirty": False},
            ).save()  # fmt: skip
            Record(
                "domain_generalization", "mnist_5k", method, "cpu", seed, {},
                {"test": 0.9, "n_test": 9, "shift_a": test, "n_a": 9, "shift_b": test - 0.2, "n_b": 9}, None,
                "nothing", {}, {"commit": "0" * 40, "dirty": False},
            ).save()  # fmt: skip
    assert verdict_of("few-shot/measured") == ("+10.0 points [10.0, 10.0] over 3 seeds of 1 set (cpu, 3 pairs)", "direction")
    assert verdict_of("table3/measured") == ("+10.0 points [10.0, 10.0] over 2 targets (cpu, 6 pairs)", "direction")


def test_a_paper_scale_average_needs_all_tasks(own_records):
    measure("glora", 0, 0.78, profile="paper")
    assert verdict_of("paper-scale/average") == ("1 of 19 tasks", "not run")
    for task in range(19):
        for group, test in (("natural", 0.78), ("structured", 0.79)):
            Record(
                "vtab1k", f"{group}{task}", "glora", "paper", 0, {"group": group}, {"test": test}, None,
                "val", {}, {"commit": "0" * 40, "dirty": False},
            ).save()  # fmt: skip
    ours, verdict = verdict_of("paper-scale/average")
    assert (ours, verdict) == ("78.5", "match")


@pytest.mark.parametrize(("rank", "mean", "trained"), [(2, 308_824, 884_832), (4, 499_320, 1_603_776), (8, 880_312, 3_041_664)])
def test_sizes_on_vit_b(rank, mean, trained):
    assert round(audit.mean_subnet(rank)) == mean
    assert audit.supernet_size(rank) == trained
