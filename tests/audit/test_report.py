"""What a reviewer reads: the command line, the README's block, coverage, checklist, the page of HTML."""

import functools
import re

import pandas as pd
import pytest

from glora_lib import audit
from glora_lib.audit import __main__ as command
from glora_lib.audit import checklist, coverage, findings, report
from glora_lib.runs.paths import ROOT
from glora_lib.runs.record import all_results

verdicts = functools.cache(audit.verdicts)  # nothing here changes what it is computed from
summary = functools.cache(report.summary)


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """What a command prints and what a README is held against are computed once for all tests here."""
    for module in (audit, command, report):
        monkeypatch.setattr(module, "verdicts", lambda profile: verdicts(profile).copy())
    monkeypatch.setattr(report, "summary", lambda profile="cpu": summary(profile))


def test_the_readme_is_current():
    assert not report.stale(), f"run: {report.MEND}"


def test_a_stale_readme_fails_and_says_what_to_run(tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(report.README.read_text(encoding="utf-8").replace("10^126.5", "20,736"), encoding="utf-8")
    monkeypatch.setattr(command, "stale", lambda: report.stale(readme))
    assert command.main(["--check"]) == 1
    assert "python -m glora_lib.audit --write" in capsys.readouterr().err
    report.write(readme)
    assert command.main(["--check"]) == 0
    assert readme.read_text(encoding="utf-8") == report.README.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["nothing", f"{report.END} {report.BEGIN}", f"{report.BEGIN} {report.BEGIN} {report.END}"])
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match=r"README.md needs the lines"):
        report.block(text)


def test_the_command_prints_the_table_as_markdown(capsys):
    assert command.main(["--profile", "smoke", "--kind", "count", "--verdict", "contradicted"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "| id | place | reported | ours | verdict | evidence |"
    assert all(line.count(" | ") == 5 for line in lines[5:])
    assert len(lines) == 7
    assert any(
        line.startswith("| space/subnets |") and "[03, The number of subnets](notebooks/03_search_space.ipynb#" in line
        for line in lines
    )
    assert command.main(["--profile", "smoke", "--source", "lora"]) == 2
    assert "valid: glora-iclr" in capsys.readouterr().err


def test_the_command_prints_two_tallies_and_no_total(capsys):
    assert command.main(["--profile", "cpu"]) == 0
    text = capsys.readouterr().out
    tallied, rows = text.split(f"**{audit.PARTS['exact']}**")[1:]
    exact, runs = tallied.split(f"**{audit.PARTS['at scale']}**")
    assert "| claims | match |" in exact
    assert "| seen here | not seen here |" in runs
    assert "contradicted" not in runs
    assert all(f"| {identity} |" in rows for identity in audit.claims().index)


def test_markdown_escapes_what_would_break_a_row():
    assert report.markdown(pd.DataFrame({"a": ["x|y\nz"]})) == "| a |\n|---|\n| x\\|y z |"


def test_ten_findings_whose_numbers_are_computed():
    found = findings.findings()
    assert len(found) == 10
    text = " ".join(found)
    for number in ("10^126.5", "13 tasks", "14 of 15", "55.95", "92.8 %", "53.0 %", "3.04 M", "1,050", "524,288", "50.33"):
        assert number in text, number
    assert all(re.search(r"\d", sentence) for sentence in found)


def test_every_table_and_figure_of_both_papers_has_a_row():
    places = [item.place for item in coverage.ITEMS]
    wanted = [f"GLoRA Table {n}" for n in range(1, 8)] + [f"GLoRA Fig. {n}" for n in range(1, 7)]
    wanted += [f"SuperLoRA Table {n}" for n in range(1, 4)] + [f"SuperLoRA Fig. {n}" for n in range(1, 11)]
    assert places == wanted
    table = coverage.coverage(audit.verdicts("cpu"), "cpu")
    assert table["state"].str.match(r"regenerated|checked$|not yet$").all()
    assert ((table["state"] == "not yet") == (table["command"] == "none")).all()


def test_a_state_follows_from_what_exists(tmp_path, monkeypatch):
    monkeypatch.setattr(coverage, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(coverage, "FIGURES", tmp_path)
    item = coverage.Item("GLoRA Fig. 9", "an example", ("42_example",), ("42_curve", "43_other"))
    assert coverage.state_of(item, 0, "cpu") == ("not yet", "none")
    assert coverage.state_of(item, 1, "cpu") == ("checked", "python -m glora_lib.audit")
    (tmp_path / "42_example.ipynb").touch()
    assert coverage.state_of(item, 1, "cpu")[0] == "checked"
    (tmp_path / "43_other.png").touch()  # another notebook's
    assert coverage.state_of(item, 1, "cpu")[0] == "checked"
    (tmp_path / "42_curve.png").touch()
    assert coverage.state_of(item, 0, "cpu") == ("regenerated", 'make reproduce ONLY="42"')
    needs_records = coverage.Item("GLoRA Table 9", "an example", ("42_example:no_such_experiment",))
    assert coverage.state_of(needs_records, 0, "cpu")[0] == "not yet"


@pytest.mark.parametrize("profile", ["cpu", "paper", "smoke"])
def test_the_checklist_answers_with_and_without_records(profile):
    table = checklist.checklist(audit.verdicts(profile), profile)
    assert (table["answer"] != "").all()
    count = len(all_results(profile))
    answers = table.set_index("question")["answer"]
    assert (answers["Does every record come from committed code?"] == "no records") == (count == 0)
    assert set(checklist.spent(profile)) >= {"experiment", "runs", "hours", "peak GB"}


def test_hours_are_the_records_seconds():
    records, spent = all_results("cpu"), checklist.spent("cpu")
    seconds = sum(v for record in records["record"] for name, v in record.cost.items() if name.startswith("seconds_"))
    assert spent["hours"].sum() == pytest.approx(seconds / 3600)
    assert spent["runs"].sum() == len(records)


def test_every_packaged_asset_has_a_licence():
    table = checklist.licences()
    assert (table[["asset", "kind", "licence", "used_by"]] != "").all(axis=None)
    pinned = {line.split("==")[0] for line in (ROOT / "requirements-data.txt").read_text().splitlines() if "==" in line}
    assert pinned <= set(table["package"])


def test_a_part_as_html_has_every_row_disagreements_first_and_the_words_folded():
    table = audit.part(audit.verdicts("smoke"), "exact")
    text = report.page(table, "exact")
    assert all(f"<summary>{identity}</summary>" in text for identity in table["id"] if identity in audit.claims().index)
    assert text.index(">contradicted<") < text.index(">off<") < text.index(">match<")
    assert "yielding a total of 432 × 48" in text
    assert 'href="../notebooks/03_search_space.ipynb#The-number-of-subnets"' in text
    assert "src=" not in text
