"""The notebook contract, held without running anything. `make test` runs the notebooks afterwards."""

import ast
import re
from functools import cache
from pathlib import Path

import nbformat
import pytest

from glora_lib.runs.paths import FIGURES, NOTEBOOKS, ROOT
from glora_lib.runs.profiles import PROFILES

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
SOURCES = sorted((ROOT / "glora_lib").rglob("*.py"))
LINK = re.compile(r"""\]\(([^)\s]+)[^)]*\)|\bsrc=["']([^"']+)""")
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@cache
def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == kind]


def links(markdown: str) -> list[str]:
    """Return the targets of relative links, without their anchors; code is no link."""
    targets = [a or b for a, b in LINK.findall(re.sub(r"`[^`]*`", "", markdown))]
    return [target.split("#")[0] for target in targets if not re.match(r"#|[a-z]+:", target)]


def nodes(source: str, kind: type) -> list:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kind)]


def saved_figures(path: Path) -> list[str]:
    """Return the names given to `plot.save(figure, "name")`; a name that is no literal raises ValueError."""
    calls = [call for cell in cells(path, "code") for call in nodes(cell.source, ast.Call)]
    return [ast.literal_eval(call.args[1]) for call in calls if ast.unparse(call.func).endswith("plot.save")]


def special_cases(source: str) -> list[str]:
    """Return what treats a profile by its name, as `if profile == "smoke"` or `{"smoke": 1}[profile]`."""
    found = []
    for node in nodes(source, ast.Compare | ast.Dict | ast.MatchValue):
        names = {child.value for child in ast.walk(node) if isinstance(child, ast.Constant)} & PROFILES.keys()
        if names - {"cpu"} or (names and "profile" in ast.unparse(node)):  # "cpu" alone is also a device
            found.append(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)}")
    return found


def test_there_are_notebooks_and_their_numbers_differ():
    assert PATHS
    assert len({path.name[:2] for path in PATHS}) == len(PATHS)


@each_notebook
def test_opens_with_title_and_what_it_takes(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(rf"# {path.name[:2]} · \S", first.source)
    for word in ("Reproduces", "Time", "Needs"):
        assert word in first.source


@each_notebook
def test_declares_parameters_as_commented_literals(path):
    (cell,) = [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]
    statements = ast.parse(cell.source).body
    assert all(isinstance(statement, ast.Assign | ast.AnnAssign) for statement in statements)
    for statement in statements:
        ast.literal_eval(statement.value)
    assert all(re.search(r"  # \S", line) for line in cell.source.splitlines())
    declared = {ast.unparse(statement) for statement in statements}
    assert {"profile: str = 'cpu'", "compute: str = 'missing'"} <= declared


@each_notebook
def test_is_stripped(path):
    assert set(read(path).metadata) <= {"kernelspec", "language_info"}
    assert read(path).metadata.kernelspec.name == "python3"
    assert set(read(path).metadata.get("language_info", {})) <= {"name"}  # a version would change with every machine
    for cell in read(path).cells:
        assert set(cell.metadata) <= {"tags"}
    for cell in cells(path, "code"):
        assert not cell.outputs
        assert cell.execution_count is None


@each_notebook
def test_leaves_the_work_to_the_library(path):
    for cell in cells(path, "code"):
        assert len(cell.source.splitlines()) <= 18, cell.source
        assert "for epoch in" not in cell.source
        assert ".backward(" not in cell.source
        for function in nodes(cell.source, ast.FunctionDef | ast.AsyncFunctionDef):
            assert function.end_lineno - function.lineno < 6, function.name


@each_notebook
def test_says_what_should_be_seen(path):
    (text,) = [cell.source for cell in cells(path, "markdown") if "What you should see" in cell.source]
    pictures = [target for target in links(text) if target.endswith((".png", ".svg", ".jpg"))]
    assert all(target.startswith("../figures/") for target in pictures)


@each_notebook
def test_links_lead_somewhere(path):
    targets = [target for cell in cells(path, "markdown") for target in links(cell.source)]
    assert [target for target in targets if not (path.parent / target).exists()] == []


@each_notebook
def test_closes_with_its_neighbours(path):
    last, here = read(path).cells[-1], PATHS.index(path)
    neighbours = PATHS[max(here - 1, 0) : here] + PATHS[here + 1 : here + 2]
    assert last.cell_type == "markdown"
    assert {Path(target).name for target in links(last.source)} >= {other.name for other in neighbours}


def test_each_figure_is_made_by_the_notebook_that_it_is_numbered_after():
    written = [(path.name[:2], name) for path in PATHS for name in saved_figures(path)]
    names = [name for _, name in written]
    assert [name for number, name in written if not name.startswith(f"{number}_")] == []
    assert len(names) == len(set(names))
    assert {figure.stem for figure in FIGURES.glob("*.png")} <= set(names)


@each_notebook
def test_treats_all_profiles_alike(path):
    assert [found for cell in cells(path, "code") for found in special_cases(cell.source)] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_library_treats_all_profiles_alike(source):
    assert special_cases(source.read_text(encoding="utf-8")) == []
