"""What a reviewer reads: the verdict table as Markdown, the summary in the README, and a page of HTML."""

import html
from pathlib import Path

import pandas as pd

from glora_lib.audit.checklist import checklist, licences, spent
from glora_lib.audit.coverage import coverage
from glora_lib.audit.desk import tally, verdicts
from glora_lib.audit.findings import findings
from glora_lib.audit.judge import VERDICTS
from glora_lib.audit.sources import BASES, PAPERS
from glora_lib.paths import OUT, ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- verdicts: python -m glora_lib.audit --write -->", "<!-- end of verdicts -->"
MEND = "python -m glora_lib.audit --write"
SHOWN = ["id", "place", "reported", "ours", "verdict", "evidence"]


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, without its index; bars inside a cell are escaped."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    for row in table.itertuples(index=False):
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return "\n".join(lines)


def linked(table: pd.DataFrame, to: str = "") -> pd.DataFrame:
    """Return the verdict table's shown columns with the evidence as a link, relative to a file of the root, or from `to`."""
    shown = table[SHOWN].copy()
    names = shown["evidence"].str.removeprefix("notebooks/")
    shown["evidence"] = [f"[{name}]({to}{path})" for name, path in zip(names, shown["evidence"], strict=True)]
    return shown


def summary(profile: str = "cpu") -> str:
    """Return the README's block without its markers: how many claims have which verdict, findings, measured claims."""
    table = verdicts(profile)
    counted = tally(table).rename_axis("claims").reset_index()
    lines = [
        f"{len(table)} claims and printed averages of {len(PAPERS)} sources, with the records of the {profile} profile. "
        "`python -m glora_lib.audit` prints all of them; [notebook 99](notebooks/99_verdict.ipynb) has quotes and evidence.",
        "",
        markdown(counted),
        "",
        *(f"{number}. {finding}" for number, finding in enumerate(findings(), 1)),
        "",
        f"What the runs of the {profile} profile say of the papers' claims, on its own tasks and backbone. A difference is "
        "GLoRA's test accuracy minus the other's, with a 95 % interval over tasks, sets or targets, or over the seeds of a "
        "single one. The verdict goes by its sign; where the interval spans zero, chance alone could turn it:",
        "",
        markdown(linked(table[table["kind"] == "measured"])),
    ]
    return "\n".join(lines)


def block(text: str) -> str:
    """Return what stands between the markers of a README; a ValueError says which markers are missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README.md needs the lines {BEGIN!r} and {END!r}, once each and in that order")
    return text.split(BEGIN)[1].split(END)[0].strip()


def stale(path: Path = README, profile: str = "cpu") -> bool:
    """Return whether the README's block differs from `summary`."""
    return block(path.read_text(encoding="utf-8")) != summary(profile)


def write(path: Path = README, profile: str = "cpu") -> None:
    """Replace the README's block by `summary`, and leave the rest as it is."""
    text = path.read_text(encoding="utf-8")
    block(text)
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{summary(profile)}\n{END}{after}", encoding="utf-8")


def page(profile: str) -> str:
    """Return the desk as one page of HTML that needs no other file."""
    table = verdicts(profile)
    parts = [f"<h1>Every claim, checked ({profile})</h1>", "<h2>Findings</h2>", _list(findings())]
    parts += [
        "<h2>Verdicts</h2>",
        _frame(tally(table).rename_axis("claims").reset_index()),
        _list(f"{k}: {v}" for k, v in VERDICTS.items()),
    ]
    for source, name in PAPERS.items():
        parts += [f"<h3>{html.escape(name)}</h3>", _frame(table[table["source"] == source][[*SHOWN, "kind", "basis"]])]
    parts += [_list(f"basis {basis}: {meaning}" for basis, meaning in BASES.items())]
    parts += ["<h2>Every table and figure</h2>", _frame(coverage(table, profile))]
    parts += ["<h2>Checklist</h2>", _frame(checklist(table, profile)), "<h2>Compute</h2>", _frame(spent(profile).round(2))]
    parts += ["<h2>Licences</h2>", _frame(licences())]
    style = (
        "body{font:15px sans-serif;max-width:75em;margin:2em auto}td,th{padding:.3em .6em;text-align:left;vertical-align:top}"
    )
    style += "table{border-collapse:collapse}tr{border-top:1px solid #ccc}"
    head = f'<meta charset="utf-8"><title>Verdicts</title><style>{style}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def write_page(profile: str) -> Path:
    """Write the page to out/<profile>/verdicts.html; return its path."""
    path = OUT / profile / "verdicts.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(profile), encoding="utf-8")
    return path


def _list(items) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"


def _frame(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0)
