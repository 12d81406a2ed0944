"""Verdicts follow from numbers: a changed number changes its own verdict and no other."""

import re
import shutil

import pandas as pd
import pytest

from glora_lib import audit
from glora_lib.audit import desk, judge, protocol, sources
from glora_lib.runs import record
from glora_lib.runs.paths import DATA, NOTEBOOKS, REPORTED
from glora_lib.runs.profiles import CPU

LONGEST_QUOTE = 200  # characters
EXACT_KINDS = ("arithmetic", "average", "equation", "count", "code", "simulation", "objection")


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


@pytest.fixture(scope="module")
def cpu_table():
    """The verdicts of the cpu profile, which has records."""
    return audit.verdicts("cpu")


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


def test_a_notebook_s_claims_are_those_of_the_table_whose_evidence_is_there(table):
    there = table[table["evidence"].str.startswith("notebooks/03_search_space.ipynb")]
    assert len(there) > 5
    assert audit.verdicts("smoke", "03_search_space").equals(there.reset_index(drop=True))
    with pytest.raises(ValueError, match=r"no claim has its evidence in 'poem'; valid: 01_glora_layer, 02_"):
        audit.verdicts("smoke", "poem")


def test_a_fact_has_one_row_with_all_its_places(cpu_table):
    """The same number held against the same reported one by the same check is one fact, whoever says it where."""
    table = cpu_table
    stated = table[(table["source"] != "ours") & (table["kind"] != "average")]
    once = stated[stated["ours"].str.contains(r"\d") & ~stated["verdict"].isin(["not run", "not testable"])]
    assert once[once.duplicated(["reported", "ours"], keep=False)]["id"].tolist() == ["size/adapter", "size/adaptformer"]
    places = audit.claims()["place"]
    assert places["table1/14-of-19"] == "GLoRA Sec. 3.1; GLoRA v1 Sec. 3.1"
    assert places["equation/10-product"] == "GLoRA Eq. 10; GLoRA Eq. 13"


def test_our_own_questions_stand_apart(table):
    own = audit.part(table, "ours")
    assert set(own["id"]) >= {"search/effective", "search/optimal", "search/validation-score", "measured/equal-operations"}
    assert not set(own["verdict"]) & {"match", "contradicted"}
    assert sum(len(audit.part(table, name)) for name in audit.PARTS) == len(table)


def test_reported_numbers_have_a_place_a_unit_a_tolerance_and_a_source():
    for path in sorted(REPORTED.glob("*.csv")):
        table = audit.reported(path.stem)
        assert {"id", "place", "value", "unit", "tolerance", "source"} <= set(table), path.name
        assert table["id"].is_unique, path.name
        assert (table[["place", "unit", "source"]] != "").all(axis=None), path.name


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_evidence_leads_to_a_section_that_exists(profile):
    for _, claim in audit.claims().iterrows():
        path, _, section = desk.evidence(claim, profile).removeprefix("notebooks/").partition("#")
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
    open_ = exact[exact["verdict"].isin(audit.AT_SCALE)]
    assert open_["id"].tolist() == []
    reasons = audit.claims()["why_not"]
    assert set(exact.loc[exact["verdict"] == "not testable", "id"]) <= set(reasons[reasons != ""].index)


def test_exact_claims_come_out_as_the_mathematics_has_them(table):
    verdict = table.set_index("id")["verdict"]
    expected = {
        "space/per-layer": "match",
        "space/product": "match",
        "space/subnets": "contradicted",
        "equation/10-prompt": "contradicted",
        "table5/no-manual-tuning": "contradicted",
        "table7/only-ranks": "match",  # with the exception that App. A states
        "budget/strictly-adhere": "match",  # likewise
        "few-shot/flowers102": "off",  # a matter of tolerance is never contradicted
        "search/crossover": "not testable",
        "space/72": "contradicted",
        "equation/10-product": "contradicted",
        "equation/10-product-v1": "match",
        "equation/10-code": "match",
        "fusion/bias": "match",
        "fusion/no-bias": "contradicted",
        "superset/all": "contradicted",
        "superset/linear-methods": "holds",
        "table1/14-of-19": "contradicted",
        "table1/2.9": "off",
        "table3/imagenet-a": "off",
        "table3/imagenet-sketch": "off",
        "size/noah": "match",
        "size/trained-0.86": "off",
        "superlora/table3-qv": "off",
        "superlora/table3-qv-binary": "match",
        "search/evaluations": "holds",
        "theorem/extreme-case": "contradicted",
        "figure5/state-of-the-art": "contradicted",
        "superlora/lora-as-published": "contradicted",
        "superlora/lokr-left": "contradicted",
        "superlora/loha": "match",
        "limits/lora-fact": "match",
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
        ("table1_vtab1k", "table1/lora-0.29/average", "74.6", ["table1/average/lora-0.29"]),
        ("table2_llm", "table2/llama-2-7b/glora-sharegpt/average", "56.0",
         ["table2/average/llama-2-7b-glora-sharegpt"]),
        ("table4_inference", "table4/noah/extra_params", "0.36", ["table4/noah-params"]),
        ("settings", "settings/batch-language", "64", ["budget/constant-batch"]),
        ("fig2_few_shot", "fig2/glora/food101/1", "28", ["few-shot/food101", "few-shot/few-shots"]),
        ("lora_e2e", "lora-e2e/lora", "69.8", ["superlora/lora-as-published"]),
        ("settings", "settings/ablations", "1", ["conclusion/ablations"]),
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
    with pytest.raises(ValueError, match=r"no claim has the kind 'poem'; valid: arithmetic, average, code"):
        audit.select(table, kind="poem")


def test_there_is_a_tally_a_part_and_none_of_all(table):
    for name in audit.PARTS:
        rows = audit.part(table, name)
        counted = audit.tally(rows)
        assert counted["all"].iloc[-1] == len(rows)
        assert counted.drop(columns="all").iloc[-1].to_dict() == rows["verdict"].value_counts().to_dict()
    with pytest.raises(ValueError, match="one tally a part; this table joins exact, at scale, paper scale, ours"):
        audit.tally(table)
    with pytest.raises(ValueError, match="no part 'all'; valid: exact"):
        audit.part(table, "all")


def test_kinds_of_evidence_have_verdicts_of_their_own(table, cpu_table):
    assert set(audit.part(table, "exact")["verdict"]) <= set(audit.EXACT)
    assert set(audit.part(cpu_table, "at scale")["verdict"]) <= set(audit.AT_SCALE)


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


@pytest.mark.parametrize(("rank", "mean", "trained"), [(2, 308_824, 884_832), (4, 499_320, 1_603_776), (8, 880_312, 3_041_664)])
def test_sizes_on_vit_b(rank, mean, trained):
    assert round(audit.mean_subnet(rank)) == mean
    assert audit.supernet_size(rank) == trained
