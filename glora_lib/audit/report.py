"""What a reviewer reads: the verdict table as Markdown and HTML, and the summary in the README."""

import html
from pathlib import Path

import pandas as pd

from glora_lib.audit.desk import PARTS, part, runs, tally, verdicts
from glora_lib.audit.findings import findings
from glora_lib.audit.sources import claims
from glora_lib.runs.paths import ROOT
from glora_lib.runs.profiles import PAPER, PROFILES
from glora_lib.training.files import replacing

README = ROOT / "README.md"
BEGIN, END = "<!-- verdicts: python -m glora_lib.audit --write -->", "<!-- end of verdicts -->"
MEND = "python -m glora_lib.audit --write"
COLUMNS = {
    "exact": {
        "id": "id",
        "place": "place",
        "reported": "reported",
        "ours": "ours",
        "verdict": "verdict",
        "evidence": "evidence",
    },
    "at scale": {
        **{"id": "id", "place": "place", "reported": "statement", "ours": "by source of images", "by_task": "by task"},
        **{"by_pip": "with pip's images alone", "visible": "smallest visible", "verdict": "verdict", "scale": "scale"},
        "evidence": "evidence",
    },
}  # a column of the verdict table -> its title; the other parts have those of the exact checks, the scale where there is one
ORDER = ("contradicted", "off", "near", "match", "not testable", "not run")


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, without its index; bars inside a cell are escaped."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    for row in table.itertuples(index=False):
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return "\n".join(lines)


def columns_of(name: str, table: pd.DataFrame) -> dict[str, str]:
    """Return the columns of a part that are shown, with their titles; those of runs only where some row has them."""
    if name in ("at scale", "ours"):
        return {key: title for key, title in COLUMNS["at scale"].items() if (table[key] != "").any()}
    return COLUMNS["exact"]


def linked(table: pd.DataFrame, name: str, to: str = "") -> pd.DataFrame:
    """Return a part's shown columns with the evidence as a link, relative to a file of the root, or from `to`."""
    shown = table[list(columns_of(name, table))].copy()
    shown["evidence"] = [f"[{label(path)}]({to}{path})" for path in shown["evidence"]]
    return shown.rename(columns=COLUMNS["at scale"] if "visible" in shown else columns_of(name, table))


def label(path: str) -> str:
    """Return what a link to evidence says: "03, The number of subnets"."""
    notebook, _, section = path.removeprefix("notebooks/").partition("#")
    return ", ".join(filter(None, (notebook[:2], section.replace("-", " "))))


def tallies(table: pd.DataFrame) -> str:
    """Return the two tallies in Markdown, and a line on what only the papers' scale can decide. There is no grand total."""
    lines = []
    for name in ("exact", "at scale"):
        counted = tally(part(table, name)).rename_axis("claims").reset_index()
        lines += [f"**{PARTS[name]}**", "", markdown(counted), ""]
    rest = part(table, "paper scale")["verdict"].value_counts()
    return "\n".join([*lines, f"{PARTS['paper scale']}: " + ", ".join(f"{n} {verdict}" for verdict, n in rest.items()) + "."])


def at_scale(table: pd.DataFrame) -> str:
    """Return the rows of runs, then our own questions, in Markdown."""
    own = part(table, "ours")
    own = own[own["kind"] == "measured"]
    lines = [markdown(linked(part(table, "at scale"), "at scale"))]
    return "\n".join([*lines, *(["", PARTS["ours"] + ":", "", markdown(linked(own, "ours"))] if len(own) else [])])


def summary(profile: str = "cpu") -> str:
    """Return the README's block without its markers: both tallies, findings, and what the runs of each profile say."""
    table = verdicts(profile)
    averages, own = (table["kind"] == "average").sum(), len(part(table, "ours"))
    lines = [
        f"{len(table) - averages - own} checks, each with all the places that state what it checks, all {averages} printed "
        f"averages, and {own} questions of our own, which are in no tally. A verdict on an exact check and one on runs at "
        f"another scale are different things and are never added up. The tallies are those of the {profile} profile; `python "
        "-m glora_lib.audit` prints every row, [notebook 99](notebooks/99_verdict.ipynb) has the quotes and the evidence.",
        "",
        tallies(table),
        "",
        *(f"{number}. {finding}" for number, finding in enumerate(findings(), 1)),
    ]
    others = [name for name, other in PROFILES.items() if other.compared and other is not PAPER and name != profile]
    shown = {profile: table} | {name: rows for name in others if len(rows := runs(name))}
    lines += [
        "",
        "**What the runs say.** A difference is in points of test accuracy, GLoRA's minus the other's where a row names no "
        "other score or setting, with a 95 % interval over independent sources of images; *smallest visible* is the smallest "
        "difference that such an interval would have told from zero. One rule for all rows: `seen here` if the interval lies "
        "on the statement's side of zero, `not seen here` on the other, else `undecided here`. It says nothing of a ViT-B at "
        "224 pixels.",
    ]
    for name, rows in shown.items():
        lines += ["", f"The {name} profile:", "", at_scale(rows)]
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
    with replacing(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{summary(profile)}\n{END}{after}", encoding="utf-8")


def page(table: pd.DataFrame, name: str, to: str = "../") -> str:
    """Return a part as HTML: a row a fact, disagreements first, its quote, check and tolerance folded below its id.

    A field above the table hides the rows that lack what is typed. Links lead from `to`.
    """
    said = claims()
    rows = table.sort_values("verdict", key=lambda c: c.map({v: i for i, v in enumerate(ORDER)}).fillna(-1), kind="stable")
    columns = columns_of(name, rows)
    beside = {key: columns.pop(key) for key in ("by_task", "by_pip") if key in columns}  # below the numbers that decide
    head = "".join(f"<th>{html.escape(title)}</th>" for title in columns.values())
    body = []
    for row in rows.to_dict("records"):
        cells = {key: html.escape(str(row[key])) for key in columns}
        cells["evidence"] = f'<a href="{to}{row["evidence"]}">{html.escape(label(row["evidence"]))}</a>'
        cells["ours"] += "".join(f"<br><i>{title}:</i> {html.escape(row[key])}" for key, title in beside.items() if row[key])
        if row["id"] in said.index:
            claim = said.loc[row["id"]]
            words = f"<q>{html.escape(claim['quote'])}</q><br>Check: {html.escape(claim['check'])}"
            words += f"<br>Tolerance {claim['tolerance']}; basis: {claim['basis']}"
            cells["id"] = f"<details><summary>{cells['id']}</summary>{words}</details>"
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells.values()) + "</tr>")
    hide = "const s=this.value.toLowerCase();for(const r of this.nextElementSibling.tBodies[0].rows)"
    hide += "r.hidden=!r.textContent.toLowerCase().includes(s)"
    field = f'<input type="search" aria-label="filter" placeholder="filter these {len(rows)} rows" oninput="{hide}">'
    return f'<div class="claims">{field}<table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
