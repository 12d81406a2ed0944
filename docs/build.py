"""Make the site: a searchable book of executed notebooks that reads from disk with the network off.

    python docs/build.py --profile cpu

Reads out/<profile>/*.ipynb, which `reproduce.py` has written, and writes out/<profile>/site/index.html. A notebook that was not
executed is there without outputs. The sources that Sphinx reads are put together in out/<profile>/site-sources: the notebooks,
README.md and data/README.md, the figures that they show. Every link is followed at the end.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

import nbformat
from docutils.nodes import make_id
from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, whose own folder comes first

from docs.links import dead  # noqa: E402
from glora_lib.runs.paths import NOTEBOOKS, OUT  # noqa: E402
from glora_lib.runs.profiles import PROFILES  # noqa: E402

NOTEBOOK = r"(?:\.\./)?(?:notebooks/)?(\d\d_\w+)\.ipynb(?:#([^)\"\s]*))?"
SAVED = re.compile(r"""plot\.save\([^,]+,\s*["'](\w+)["']""")
NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?( ?%)?|-|nan", re.IGNORECASE)


def anchor(fragment: str | None) -> str:
    """Return the anchor of the site for a heading's anchor in JupyterLab, "#the-runs" for "The-runs"; "" for none."""
    return f"#{make_id(fragment.replace('-', ' '))}" if fragment else ""


def link(text: str, prefix: str, ending: str) -> str:
    """Return a text whose links to notebooks lead to the site's pages, `prefix` and NAME and `ending`."""
    return re.sub(rf"(\]\(|href=\"){NOTEBOOK}", lambda m: f"{m[1]}{prefix}{m[2]}{ending}{anchor(m[3])}", text)


def align(table: str) -> str:
    """Return the HTML of an output whose cells with numbers have the class `number`: they stand to the right."""

    def mark(match: re.Match) -> str:
        opening, content = match[1], match[2]
        if not NUMBER.fullmatch(re.sub(r"<[^>]*>", "", content).strip()):
            return match[0]
        classed = opening.replace('class="', 'class="number ', 1)
        return (classed if classed != opening else opening[:-1] + ' class="number">') + content + "</td>"

    return re.sub(r"(<td[^>]*>)([^<]*)</td>", mark, table)


def page(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Change an executed notebook into a page: the site's links, no injected parameters, and each figure once.

    What a cell has drawn is not shown again below "What you should see": its words remain.
    """
    drawn = set()
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            shown = rf"!\[([^\]]*)\]\(\.\./figures/({'|'.join(sorted(drawn)) or '-'})\.png\)"
            cell.source = link(re.sub(shown, r"*In the figure above: \1.*", cell.source), "", ".ipynb")
            continue
        outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
        if any("image/png" in data for data in outputs):
            drawn |= set(SAVED.findall(cell.source))
        for data in outputs:
            if "text/html" in data:
                data["text/html"] = align(link(data["text/html"], "", ".html"))
            if "text/markdown" in data:
                data["text/markdown"] = link(data["text/markdown"], "", ".ipynb")
    return notebook


def written(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what a notebook's cells say, without what papermill has put in."""
    return [cell.source for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]


def stage(executed: Path, source: Path) -> None:
    """Put the sources of the site together in a folder, anew: executed notebooks, and the others without outputs.

    One that was executed before its text or code changed is of the others.
    """
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("*.pyc", "__pycache__", "build.py"))
    shutil.copytree(ROOT / "figures", source / "figures")
    for folder in ("notebooks", "data"):
        (source / folder).mkdir()
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        notebook, ran = nbformat.read(path, as_version=4), executed / path.name
        run = nbformat.read(ran, as_version=4) if ran.exists() else None
        current = run is not None and written(run) == written(notebook)
        notebook = page(run if current else notebook)
        if not current:
            said = "*This notebook, as it stands, was not executed here: it has no outputs.*"
            notebook.cells.insert(1, nbformat.v4.new_markdown_cell(said))
        nbformat.write(notebook, source / "notebooks" / path.name)
    for name, prefix in (("README.md", "notebooks/"), ("data/README.md", "../notebooks/")):
        text = (ROOT / name).read_text(encoding="utf-8")
        (source / name).write_text(link(text, prefix, ".ipynb"), encoding="utf-8")
    shutil.copy(ROOT / "LICENSE", source)


def build(executed: Path) -> Path:
    """Build the site of a folder of executed notebooks; return its first page.

    Raises RuntimeError where Sphinx fails or warns, or a link leads nowhere.
    """
    source, target = executed / "site-sources", executed / "site"
    stage(executed, source)
    shutil.rmtree(target, ignore_errors=True)
    options = ["-q", "-W", "--keep-going", "-b", "html", "-d", str(executed / "site-cache")]
    if build_main([*options, str(source), str(target)]):
        raise RuntimeError(f"Sphinx could not build {source}; its messages stand above")
    if wrong := dead(target):
        raise RuntimeError(f"{len(wrong)} links of {target} lead nowhere: {'; '.join(wrong[:10])}")
    return target / "index.html"


def main(argv: list[str] | None = None) -> int:
    """Build the site of a profile; return 0, or 1 where it has errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu", choices=PROFILES)
    try:
        print(build(OUT / parser.parse_args(argv).profile))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
