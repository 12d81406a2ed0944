"""Verdicts follow from numbers: a changed number changes its own verdict and no other."""

import shutil

import pandas as pd
import pytest

from glora_lib import audit
from glora_lib.paths import DATA, REPORTED

ALLOWED = {"match", "near", "off", "direction", "contradicted", "not run"}


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A copy of the claims and reported numbers that a test may edit."""
    (tmp_path / "reported").mkdir()
    shutil.copy(DATA / "claims.csv", tmp_path)
    shutil.copy(REPORTED / "table1_vtab1k.csv", tmp_path / "reported")
    monkeypatch.setattr(audit, "DATA", tmp_path)
    monkeypatch.setattr(audit, "REPORTED", tmp_path / "reported")
    return tmp_path


@pytest.mark.parametrize(("ours", "verdict"), [(10.1, "match"), (9.9, "match"), (10.2, "near"), (10.21, "off"), (0.0, "off")])
def test_a_number_matches_is_near_or_is_off(ours, verdict):
    assert audit.number(10.0, ours, 0.1) == verdict


def test_every_claim_has_a_check_and_every_check_a_claim():
    assert set(pd.read_csv(DATA / "claims.csv")["id"]) == set(audit.CHECKS)


def test_all_verdicts_are_of_the_known_kinds():
    table = audit.verdicts("smoke")
    assert set(table["verdict"]) <= ALLOWED
    assert not table.isna().any().any()


def test_exact_claims_come_out_as_the_mathematics_has_them():
    verdict = audit.verdicts("smoke").set_index("id")["verdict"]
    assert verdict["space/per-layer"] == "match"
    assert verdict["space/subnets"] == "contradicted"
    assert verdict["equation/10-product"] == "contradicted"
    assert verdict["equation/10-code"] == "match"
    assert verdict["fusion/bias"] == "match"
    assert verdict["fusion/no-bias"] == "contradicted"


def test_fourteen_of_fifteen_averages_of_table_1_hold_and_lora_does_not():
    verdict = audit.averages().set_index("id")["verdict"]
    assert len(verdict) == 15
    assert verdict[verdict != "match"].to_dict() == {"table1/average/lora-0.29": "near"}


def test_smoke_is_never_compared_with_the_paper():
    table = audit.verdicts("smoke").set_index("id")
    assert (table.loc[table.index.str.startswith("measured/"), "verdict"] == "not run").all()


def test_a_changed_claim_changes_exactly_its_verdict(own_data):
    before = audit.verdicts("smoke").set_index("id")["verdict"]
    text = (own_data / "claims.csv").read_text()
    assert ",count,432,0," in text
    (own_data / "claims.csv").write_text(text.replace(",count,432,0,", ",count,433,0,"))
    after = audit.verdicts("smoke").set_index("id")["verdict"]
    assert before[before != after].index.tolist() == ["space/per-layer"]


def test_a_changed_entry_of_table_1_changes_exactly_its_row(own_data):
    before = audit.averages().set_index("id")["verdict"]
    path = own_data / "reported" / "table1_vtab1k.csv"
    table = pd.read_csv(path)
    table.loc[table["id"] == "table1/noah-0.36/average", "value"] = "70.0"
    table.to_csv(path, index=False)
    after = audit.averages().set_index("id")["verdict"]
    assert before[before != after].index.tolist() == ["table1/average/noah-0.36"]


@pytest.mark.parametrize(("rank", "mean", "trained"), [(2, 308_824, 884_832), (4, 499_320, 1_603_776), (8, 880_312, 3_041_664)])
def test_sizes_on_vit_b(rank, mean, trained):
    assert round(audit.mean_subnet(rank)) == mean
    assert audit.supernet_size(rank) == trained
