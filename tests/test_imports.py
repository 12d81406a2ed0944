"""The direction of imports, room by room. The table is the documentation: a room, and what of ours it may import."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from glora_lib.runs.paths import ROOT

PACKAGE = ROOT / "glora_lib"

ROOMS = {
    "runs.paths": set(),
    "runs.profile": set(),  # settings alone; what reads them need not know what a run is
    "runs.profiles": {"runs.profile"},
    "training": set(),
    "backbones": {"runs.paths", "training"},
    "data": {"backbones", "runs.paths", "runs.profile", "runs.profiles", "training"},
    "glora": {"training"},
    "superlora": {"glora", "training"},
    "methods": {"glora", "superlora", "training"},
    "runs": {"backbones", "data", "glora", "methods", "runs.paths", "runs.profile", "runs.profiles", "superlora", "training"},
    "measures": {"backbones", "data", "glora", "methods", "runs.paths", "runs", "runs.profile", "superlora", "training"},
    "benchmark": {
        *("backbones", "data", "glora", "measures", "methods", "runs", "runs.paths", "runs.profile", "runs.profiles"),
        *("superlora", "training"),
    },
    "audit": {"glora", "measures", "methods", "recompute", "runs", "runs.paths", "runs.profiles", "training"},
    "finetune": {
        *("backbones", "data", "glora", "measures", "methods", "runs", "runs.paths", "runs.profile", "runs.profiles"),
        "training",
    },
    "recompute": {"data", "runs", "runs.profile", "runs.profiles"},
    "plot": {"glora", "runs.paths", "runs.profile"},
}
# inside a large room, a module imports from the lines above its own
INSIDE = {
    "glora": (
        "space fast_linear fusable",
        "class_token layer plain search",
        "masked shaped",
        "conv norm",
        "model",
        "adapt generation supernet",
        "score",
    ),
    "superlora": ("fold grouping projection units", "model", "settings", "counts"),
    "runs": (
        *("paths profile", "profiles provenance", "record language_profile transfer_profile", "run"),
        "adapted controls layers harness superlora image_generation text_generation",
        *("supernets", "stages"),
        *("language together plan", "grid pack", "kept unpack"),
    ),
    "audit": (
        "sources judge",
        "counts dimensions intervals protocol superlora superlora_table3 superset table1",
        "equations measured selection other_models superlora_runs tables",
        "theorem",
        "desk findings",
        "checklist coverage report",
        "__main__",
    ),
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in PACKAGE.rglob("*.py")
}
TORCH_FREE = ("runs.paths", "runs.profile", "runs.profiles", "glora.search", "glora.space", "training.threads")
NEVER = {"IPython", "ipykernel", "nbclient", "nbconvert", "nbformat", "papermill", "peft", "lycoris"}
MAY = {"benchmark.others": {"peft"}}  # what peft does is compared with; the tests do that too


def imported(name: str) -> set[str]:
    """Return the absolute names that a module imports anywhere in its file, inside functions too."""
    package = ["glora_lib", *name.split(".")][: None if MODULES[name].name == "__init__.py" else -1]
    names = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            # `from glora_lib.glora import space` names a module, `from glora_lib.glora.space import Choice` a part of one
            parts = {f"{source}.{alias.name}" for alias in node.names}
            names |= {part if part.removeprefix("glora_lib.") in MODULES else source for part in parts}
    return names


def of_ours(name: str) -> set[str]:
    """Return the modules of the package that a module imports, without the leading `glora_lib.`."""
    ours = {other for other in imported(name) if other.split(".")[0] == "glora_lib"}
    return {other.removeprefix("glora_lib.") for other in ours}


def room(name: str) -> str:
    """Return the row of the table that a module belongs to."""
    return name if name in ROOMS else name.split(".")[0]


def test_every_room_is_in_the_table_and_the_table_has_no_others():
    assert {room(name) for name in MODULES if name} == set(ROOMS)


def test_a_newcomer_sees_fourteen_entries_at_most():
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 14


@pytest.mark.parametrize("table", [ROOMS, {name: of_ours(name) - {name} for name in MODULES}], ids=["rooms", "modules"])
def test_nothing_is_imported_in_a_circle(table):
    TopologicalSorter(table).prepare()  # raises CycleError


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {""}))
def test_imports_what_the_table_allows(name):
    assert {room(other) for other in of_ours(name)} <= ROOMS[room(name)] | {room(name)}


@pytest.mark.parametrize("place", INSIDE)
def test_inside_a_large_room_imports_go_up(place):
    line = {f"{place}.{module}": number for number, modules in enumerate(INSIDE[place]) for module in modules.split()}
    assert line.keys() == {name for name in MODULES if name.startswith(f"{place}.")}
    wrong = [(name, other) for name in line for other in of_ours(name) & line.keys() if line[other] >= line[name]]
    assert not wrong


@pytest.mark.parametrize("name", sorted(MODULES))
def test_knows_nothing_of_notebooks(name):
    assert not {other.split(".")[0] for other in imported(name)} & NEVER - MAY.get(name, set())


@pytest.mark.parametrize("name", TORCH_FREE)
def test_does_without_torch(name):
    assert not {other.split(".")[0] for other in imported(name)} & {"timm", "torch", "torchvision"}


def test_importing_the_library_leaves_heavy_packages_alone():
    program = "import sys, glora_lib; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).split()
    assert not {"matplotlib.pyplot", "peft", "seaborn", "sklearn", "timm", "torchvision", "transformers"} & set(loaded)
