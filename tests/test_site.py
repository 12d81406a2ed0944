"""The site: its links, and its pages in a headless Chromium that reaches nothing but this machine."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64encode

import nbformat
import pandas as pd
import pytest
from fixtures import browser
from matplotlib.figure import Figure

from docs import build, links
from glora_lib import audit
from glora_lib.audit import desk
from glora_lib.runs.paths import FIGURES, NOTEBOOKS

needs_chromium = pytest.mark.skipif(browser.executable() is None, reason="no Chromium: apt-get install chromium")
LAB = ("01_glora_layer", "05_evolutionary_search")
PAGES = ("index.html", "notebooks/01_glora_layer.html", "notebooks/99_verdict.html")


def picture(folder) -> str:
    """Return a small PNG as a notebook holds it."""
    Figure(figsize=(1, 1)).savefig(folder / "figure.png")
    return b64encode((folder / "figure.png").read_bytes()).decode()


def claims() -> str:
    """Return every claim as notebook 99 shows it, without having checked any."""
    table = audit.claims().reset_index().reindex(columns=desk.COLUMNS, fill_value="")
    table["evidence"] = [desk.evidence(claim, "cpu") for _, claim in audit.claims().iterrows()]
    return audit.report.page(table.assign(verdict="match"), "exact")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of the notebooks without outputs, but for a table, a figure and the claims in two of them."""
    out = tmp_path_factory.mktemp("executed")
    shown = {"01_glora_layer": pd.DataFrame({"words": ["a"], "n": [2.5]}).to_html(), "99_verdict": claims()}
    for name, html in shown.items():
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        first, *others = [cell for cell in notebook.cells if cell.cell_type == "code"]
        first.outputs = [nbformat.v4.new_output("display_data", {"text/html": html})]
        for cell in [cell for cell in others if 'plot.save(figure, "01_storage"' in cell.source]:
            cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": picture(out)})]
        injected = nbformat.v4.new_code_cell("profile = 'smoke'", metadata={"tags": ["injected-parameters"]})
        notebook.cells.insert(3, injected)
        nbformat.write(notebook, out / f"{name}.ipynb")
    older = nbformat.read(NOTEBOOKS / "02_reparameterization.ipynb", as_version=4)
    older.cells[0].source += "\n\nA sentence of an older text."
    nbformat.write(older, out / "02_reparameterization.ipynb")
    return build.build(out).parent


def text_of(page) -> str:
    return page.read_text(encoding="utf-8")


def test_every_notebook_has_a_page_and_no_link_leads_nowhere(site):
    assert {path.stem for path in (site / "notebooks").glob("*.html")} == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert links.dead(site) == []
    assert not re.search(r'href="[^"]*ipynb', text_of(site / PAGES[2]))
    assert 'href="03_search_space.html#the-number-of-subnets"' in text_of(site / PAGES[2])  # from verdict to cell


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a id="here"></a><a href="#here"></a><a href="b.html#there"></a><img src="c.png">')
    (tmp_path / "b.html").write_text('<p id="somewhere"></p><a href="https://example.org">elsewhere</a>')
    assert links.dead(tmp_path) == ["a.html: b.html#there", "a.html: c.png"]


@pytest.mark.parametrize("name", ["02_reparameterization", "03_search_space"], ids=["with another text", "never"])
def test_a_notebook_that_was_not_executed_as_it_stands_says_so(site, name):
    assert "was not executed here" in text_of(site / "notebooks" / f"{name}.html")
    assert "older text" not in text_of(site / "notebooks" / f"{name}.html")
    assert "was not executed here" not in text_of(site / PAGES[1])


def test_injected_parameters_are_left_out_and_a_figure_that_was_drawn_is_shown_once(site):
    text = text_of(site / PAGES[1])
    assert "smoke&#39;" not in text
    assert "01_storage.png" not in text
    assert "In the figure above" in text
    assert "01_forms.png" in text  # no cell has drawn it here


def test_numbers_stand_to_the_right():
    table = build.align(
        pd.DataFrame({"words": ["a"], "n": ["1,050"], "sd": ["-"], "p": ["2.5e-03"], "k": ["4 to 5"]}).to_html()
    )
    assert table.count('class="number"') == 3
    assert "<td>a</td>" in table
    assert build.align('<td id="T" class="data row0">+2.5</td>') == '<td id="T" class="number data row0">+2.5</td>'


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.page(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@needs_chromium
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_from_disk_without_errors_with_its_formulas_and_cuts_no_table(site, page, name):
    page.errors.clear()
    page.requests.clear()
    page.open((site / name).as_uri())
    formulas = page.run("document.querySelectorAll('.math').length")
    page.wait(f"document.querySelectorAll('.math mjx-container').length >= {formulas}")
    assert page.errors == []
    assert [address for address in page.requests if not address.startswith(("file:", "data:"))] == []
    assert (formulas > 0) == ("01" in name)
    assert page.run("document.body.innerText.match(/\\$[^$\\n]+\\$/g)") is None  # no formula is left as it is written
    assert page.run("document.documentElement.scrollWidth") <= 1200
    cut = """[...document.querySelectorAll('table')].filter(table => {
        for (let box = table.parentElement; box; box = box.parentElement) {
            if (getComputedStyle(box).overflowX === 'auto') return false;
            if (table.getBoundingClientRect().right > box.getBoundingClientRect().right + 1) return true;
        }
    }).length"""
    assert page.run("document.querySelectorAll('table').length") > 0
    assert page.run(cut) == 0


@needs_chromium
def test_the_search_finds_and_the_filter_hides(site, page):
    page.open((site / "search.html").as_uri() + "?q=entanglement")
    page.wait("document.querySelectorAll('#search-results li').length > 0")
    assert "01_glora_layer.html" in page.run("document.querySelector('#search-results').innerHTML")
    page.open((site / PAGES[2]).as_uri())
    rows = "[...document.querySelectorAll('.claims tbody tr')].filter(row => !row.hidden).length"
    everything = page.run(rows)
    field = "const field = document.querySelector('.claims input'); field.value = 'subnets'; field.oninput(); "
    assert 0 < page.run(f"(() => {{ {field} return {rows}; }})()") < everything


@needs_chromium
def test_light_and_dark(site, page):
    page.open((site / PAGES[1]).as_uri())
    background = "getComputedStyle(document.body).backgroundColor"
    shades = {
        page.run(f"(() => {{ document.body.dataset.theme = '{theme}'; return {background}; }})()")
        for theme in ("light", "dark")
    }
    assert len(shades) == 2
    assert page.run("getComputedStyle(document.querySelector('.content img')).backgroundColor") == "rgb(255, 255, 255)"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """What `make lab` starts, on copies of two notebooks in the smoke profile: no number is tested here; its address."""
    root = tmp_path_factory.mktemp("lab")
    folder = root / "notebooks"
    folder.mkdir()
    shutil.copytree(FIGURES, root / "figures")
    for name in LAB:
        text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
        assert text.count('profile: str = \\"cpu\\"') == 1
        (folder / f"{name}.ipynb").write_text(text.replace('str = \\"cpu\\"', 'str = \\"smoke\\"'), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--IdentityProvider.token=t",
    ]
    command += [f"--notebook-dir={root}", "--expose-app-in-browser", "--LabApp.news_url=None"]
    own = {name: str(root / name) for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < end, "JupyterLab does not listen"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks"
    finally:
        server.terminate()
        server.wait(30)


@needs_chromium
@pytest.mark.parametrize("name", LAB)
def test_jupyterlab_runs_a_notebook_from_a_browser(lab, page, name):
    page.errors.clear()
    page.open(f"{lab}/{name}.ipynb?reset&token=t", 120)
    notebook = "[...(window.jupyterapp?.shell.widgets('main') ?? [])].find(widget => widget.context?.sessionContext)"
    page.wait(f"{notebook}?.context.sessionContext.session?.kernel?.status === 'idle'", 120)
    page.run(f"jupyterapp.shell.activateById({notebook}.id)")
    page.wait("!!jupyterapp.shell.currentWidget?.context", 30)
    page.run("jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
    cells = f"{notebook}.content.model.sharedModel.cells.filter(cell => cell.cell_type === 'code')"
    wrong = f"{cells}.flatMap(cell => cell.outputs).filter(output => output.output_type === 'error').map(o => o.evalue)"
    page.wait(f"{cells}.every(cell => cell.execution_count) || {wrong}.length > 0", 300)
    assert page.run(wrong) == []
    assert page.run(f"{cells}.length") > 5
    assert [error for error in page.errors if "beforeunload" not in error] == []  # such as a figure that is not found
