"""reproduce.py on notebooks of a few cells."""

import json
import re
import subprocess
import sys
import time
import types
from dataclasses import replace

import nbformat
import pandas as pd
import pytest
import torch

import reproduce
from docs import execute
from glora_lib.runs import record as record_module
from glora_lib.runs.paths import ROOT
from glora_lib.runs.profiles import SMOKE
from glora_lib.runs.record import Record
from glora_lib.runs.run import Run

PARAMETERS = """profile: str = "cpu"  # one of three
compute: str = "missing"  # what to compute
seeds: int = 1  # how many"""


def write(path, *sources, text=""):
    """Write a stripped notebook of a title and a text, the parameters and code cells, and return its path."""
    parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    code = [nbformat.v4.new_code_cell(source) for source in sources]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_markdown_cell(f"# 01 · A title\n\n{text}"), parameters, *code]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of notebooks that `main` runs, with a table of one verdict; returns the folder."""
    audit = types.ModuleType("glora_lib.audit")
    audit.verdicts = lambda profile: pd.DataFrame({"id": ["C1"], "verdict": ["direction"]})
    monkeypatch.setitem(sys.modules, "glora_lib.audit", audit)
    monkeypatch.setenv("MPLBACKEND", "agg")  # `main` sets both: this restores them for the other tests
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setattr(reproduce, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(reproduce, "OUT", tmp_path / "out")
    monkeypatch.setattr("docs.build.build", lambda executed: executed / "site")
    return tmp_path / "notebooks"


def test_runs_with_typed_parameters_in_the_notebooks_folder_also_below_braces(tmp_path):
    notebook = write(tmp_path / "a {brace}" / "01_one.ipynb", "import os", "print(os.getcwd(), seeds + 1)")
    outcome = execute.run(notebook, {"profile": "smoke", "seeds": 3}, tmp_path / "out {b}")
    assert not outcome.failure
    assert outcome.peak_bytes > 10 * 2**20
    executed = nbformat.read(tmp_path / "out {b}" / "01_one.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == f"{notebook.parent} 4\n"


def test_carries_on_after_a_failure_and_names_the_cell(project, capsys):
    write(project / "01_one.ipynb", "good = 1", "\n# why\nbad = 1 / 0\n")
    write(project / "02_two.ipynb", "print(seeds)")
    assert reproduce.main(["--profile", "smoke"]) == 1
    where, first, reason, second, *rest = capsys.readouterr().out.splitlines()
    assert where == "profile smoke, on cpu"
    assert first.startswith("01_one")
    assert "FAILED" in first
    assert reason.strip() == "cell 3 `# why`: ZeroDivisionError: division by zero"
    assert second.startswith("02_two")
    assert " ok " in second
    assert any("direction" in line for line in rest)
    assert rest[-1] == f"1 of 2 notebooks ran; the site: {project.parent / 'out' / 'smoke' / 'site'}"
    assert (project.parent / "out" / "smoke" / "01_one.ipynb").exists()


def test_memory_is_that_of_what_was_started_since_not_of_a_kernel_that_is_still_ending():
    def hold(size: int) -> subprocess.Popen:
        held = f"block = b'x' * {size}; print(len(block), flush=True); import time; time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE)
        process.stdout.readline()
        return process

    before = hold(2**29)
    with execute.PeakMemory() as peak:
        since, tries = hold(2**27), 0
        while peak.bytes < 2**27 and (tries := tries + 1) < 100:
            time.sleep(0.1)
    for process in (before, since):
        process.kill()
        process.communicate()
    assert 2**27 < peak.bytes < 2**29


def test_several_at_once_are_reported_in_order_and_each_counts_its_own_kernel(project, capsys):
    large = "block = b'x' * 2**29\nimport time\ntime.sleep(1)"  # half a GiB, for as long as the watcher needs
    for number, code in (("01", large), ("02", "print(seeds)"), ("03", "print(seeds)")):
        write(project / f"{number}_notebook.ipynb", code)
    assert reproduce.main(["--profile", "smoke", "--jobs", "2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    assert [line[0] for line in lines] == ["01_notebook", "02_notebook", "03_notebook"]
    assert all(line[1] == "ok" for line in lines)
    memory = [float(line[4]) for line in lines]
    assert memory[0] > 0.5 > max(memory[1:])


def test_the_profile_gives_its_parameters_to_notebooks_that_declare_them_and_the_command_line_wins(project, monkeypatch):
    changed = replace(reproduce.PROFILES["smoke"], parameters={"seeds": 5, "rounds": 1})
    monkeypatch.setitem(reproduce.PROFILES, "smoke", changed)
    write(project / "01_one.ipynb", "assert seeds == 5")
    assert reproduce.main(["--profile", "smoke"]) == 0
    write(project / "01_one.ipynb", "assert seeds == 7")
    assert reproduce.main(["--profile", "smoke", "--set", "seeds=7"]) == 0


@pytest.mark.parametrize(
    ("source", "reason"),
    [("import time; time.sleep(60)", "CellTimeoutError"), ("import os; os._exit(3)", "DeadKernelError")],
)
def test_names_the_cell_that_hangs_or_kills_the_kernel(tmp_path, source, reason):
    notebook = write(tmp_path / "01_one.ipynb", "good = 1", source)
    outcome = execute.run(notebook, {"seeds": 1}, tmp_path / "out", timeout=6)
    assert outcome.failure.startswith(f"cell 3 `{source}`: {reason}")
    assert (tmp_path / "out" / "01_one.ipynb").exists()


def test_a_site_with_errors_is_a_failure(project, monkeypatch, capsys):
    def broken(executed):
        raise RuntimeError("1 links lead nowhere")

    monkeypatch.setattr("docs.build.build", broken)
    write(project / "01_one.ipynb")
    assert reproduce.main(["--profile", "smoke"]) == 1
    assert capsys.readouterr().out.endswith("1 of 1 notebooks ran; the site: 1 links lead nowhere\n")


def test_never_writes_over_the_source(tmp_path):
    notebook = write(tmp_path / "01_one.ipynb")
    before = notebook.read_bytes()
    with pytest.raises(ValueError, match="would overwrite"):
        execute.run(notebook, {}, tmp_path)
    assert notebook.read_bytes() == before


def test_refuses_a_parameter_that_a_notebook_does_not_declare_before_any_runs(project, capsys):
    write(project / "01_one.ipynb")
    assert reproduce.main(["--set", "seed=3"]) == 2
    message = "reproduce.py: 01_one.ipynb has no parameter seed; it declares profile, compute, seeds\n"
    assert capsys.readouterr() == ("", message)
    assert not (project.parent / "out").exists()


def test_refuses_a_number_that_no_notebook_has(project, capsys):
    for name in ("01_one.ipynb", "04_four.ipynb"):
        write(project / name)
    assert reproduce.main(["--only", "4", "77"]) == 2
    assert capsys.readouterr() == ("", "reproduce.py: no notebook has the number 77; there are 01, 04\n")
    assert [path.name for path in execute.select(project, ["4"])] == ["04_four.ipynb"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1", 1), ("0.5", 0.5), ("1e-3", 1e-3), ("[2e-4,1e-4]", [2e-4, 1e-4]), ("(1, 2)", [1, 2]), ("None", None)],
        *[("true", True), ("False", False), ("null", None), ("[x, y]", ["x", "y"]), ("[x, 1e-3]", ["x", 1e-3])],
        *[("cpu", "cpu"), ("'1'", "1"), ("a=b", "a=b"), ("", ""), ("12:30", "12:30"), ("010", "010"), ("no", "no")],
        *[("2001-01-01", "2001-01-01"), ("a b", "a b"), ("{a: 1, b: x}", {"a": 1, "b": "x"}), ("1j", "1j"), ("{1}", {"1": ""})],
    ],
)
def test_values_are_python_literals_or_text(text, value):
    ((name, found),) = reproduce.arguments(["--set", f"a={text}"]).set
    assert (name, found, type(found)) == ("a", value, type(value))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "t={a: 1"], "'t={a: 1': while parsing a flow mapping"),
        (["--set", "profile=cpu"], "--set profile=...: it has an option of its own, --profile"),
        (["--set", "workers=2"], "it has an option of its own, --workers"),
        (["--set", "a=1", "--set", "a=2"], "--set gives a twice"),
        *[([option, value], f"invalid {kind} above zero value: '{value}'") for option, kind, value in (
            ("--timeout", "float", "0"), ("--timeout", "float", "-1"), ("--timeout", "float", "nan"), ("--jobs", "int", "0"),
        )],
    ],
    ids=str,
)  # fmt: skip
def test_a_command_line_at_fault_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        reproduce.arguments(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("seeds=1e-3", "seeds is 0.001, float; its default is 1, int"),
        ("seeds=true", "seeds is True, bool; its default is 1, int"),
        ("seeds=010", "seeds is '010', str; its default is 1, int"),
        ("rates=1", "rates is 1, int; its default is [0.5], list"),
        ("rates=[a]", r"rates is ['a'], list; its default is [0.5], list"),
        ("name=3", "name is 3, int; its default is 'x', str"),
    ],
)
def test_a_value_of_another_type_than_the_default_is_refused_before_any_runs(project, capsys, given, message):
    notebook = write(project / "01_one.ipynb")
    text = notebook.read_text(encoding="utf-8").replace(
        "seeds: int = 1  # how many", 'seeds: int = 1\\nrates = [0.5]\\nname = \\"x\\"'
    )
    notebook.write_text(text, encoding="utf-8")
    assert reproduce.main(["--set", given]) == 2
    assert capsys.readouterr().err == f"reproduce.py: 01_one.ipynb: {message}\n"
    execute.refuse_undeclared([notebook], {"seeds": 2, "rates": [1, 2.5], "name": "y"})


def test_two_notebooks_of_one_number_and_a_file_that_is_none_are_errors(project, capsys):
    write(project / "01_one.ipynb")
    (project / "._01_one.ipynb").write_bytes(b"\xff")
    write(project / "01_my_notes.ipynb")
    assert reproduce.main([]) == 2
    assert "01_my_notes.ipynb and 01_one.ipynb have one number; rename one of them" in capsys.readouterr().err
    (project / "01_my_notes.ipynb").unlink()
    (project / "02_empty.ipynb").touch()
    assert reproduce.main([]) == 2
    assert "02_empty.ipynb cannot be read as a notebook" in capsys.readouterr().err


def test_the_kernel_is_this_interpreter_and_paths_mean_what_they_mean_here(tmp_path, monkeypatch):
    kernels = tmp_path / "kernels" / "python3"
    kernels.mkdir(parents=True)
    spec = {"argv": ["/deleted/env/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(spec | {"display_name": "another environment's"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLORA_DATA_DIR", "my data")
    notebook = write(
        tmp_path / "nb" / "01_one.ipynb", "import os, sys", "print(sys.executable)", "print(os.environ['GLORA_DATA_DIR'])"
    )
    assert not execute.run(notebook, {}, tmp_path / "out").failure
    printed = [
        cell.outputs[0].text.strip() for cell in nbformat.read(tmp_path / "out/01_one.ipynb", 4).cells if cell.get("outputs")
    ]
    assert printed == [sys.executable, str(tmp_path / "my data")]


def test_a_place_that_cannot_be_written_to_is_a_failure_that_says_so(tmp_path):
    (tmp_path / "out").write_text("a file")
    outcome = execute.run(write(tmp_path / "nb" / "01_one.ipynb"), {}, tmp_path / "out" / "smoke")
    assert outcome.failure.startswith(f"nothing can be written to {tmp_path / 'out' / 'smoke'}")


def test_ends_with_the_records_and_says_which_are_new(project, monkeypatch, capsys):
    def record(experiment: str, seed: int, time: str) -> Record:
        origin = {"commit": "0123456789abcdef", "dirty": False, "time": time, "processor": "one"}
        parts = {"settings": {}, "metrics": {}, "config": None, "selected_on": "val", "cost": {}, "provenance": origin}
        return Record(experiment, "gratings", "lora", "smoke", seed, **parts)

    monkeypatch.setattr(record_module, "ROOT", project.parent)
    write(project / "01_one.ipynb", "print(seeds)")
    record("vtab1k", 0, "2001-01-01T00:00:00Z").save()
    record("vtab1k", 1, "2999-01-01T00:00:00Z").save()
    record("few_shot", 0, "2001-01-01T00:00:00Z").save()
    assert reproduce.main(["--profile", "smoke"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"vtab1k +2 records, 1 new\n", printed)
    assert re.search(r"few_shot +1 records, 0 new\n", printed)
    listed = pd.read_csv(project.parent / "out" / "smoke" / "records.csv")
    assert listed[["experiment", "seed", "new"]].values.tolist() == [
        ["few_shot", 0, False],
        ["vtab1k", 0, False],
        ["vtab1k", 1, True],
    ]


def test_a_device_that_is_not_here_is_refused_before_any_notebook_runs(project, monkeypatch, capsys):
    write(project / "01_one.ipynb")
    monkeypatch.setenv("DEVICE", "auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert reproduce.main(["--device", "cuda"]) == 2
    assert "reproduce.py: DEVICE=cuda asks for a GPU" in capsys.readouterr().err
    assert not (project.parent / "out").exists()


def test_in_some_minutes_runs_are_computed_in_order_until_time_is_up(project, monkeypatch, capsys):
    monkeypatch.setattr(record_module, "ROOT", project.parent)
    monkeypatch.setattr("glora_lib.runs.run.CACHE", project.parent / "cache")
    runs = [Run("minutes", "gratings", "linear", SMOKE, seed) for seed in range(3)]
    monkeypatch.setattr(reproduce, "plan", lambda profile: runs)
    assert reproduce.main(["--profile", "smoke", "--minutes", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["profile smoke, on cpu", "3 runs have no record; 10 minutes"]
    assert [line.split(":")[0] for line in lines[2:5]] == [f"minutes/gratings--linear--smoke--s{seed}" for seed in range(3)]
    assert lines[-1] == "3 new records, 0 runs are left"
    more = [*runs, *(Run("minutes", "gratings", "linear", SMOKE, seed) for seed in (3, 4))]
    monkeypatch.setattr(reproduce, "plan", lambda profile: more)
    assert reproduce.main(["--profile", "smoke", "--minutes", "1e-9"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 new records, 2 runs are left"
    assert [run.exists() for run in more] == [True, True, True, False, False]


def test_records_before_an_error_are_collected(project, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "plan", lambda profile: [Run("minutes", "gratings", "linear", SMOKE)])
    monkeypatch.setattr(reproduce.pack, "use", lambda place: None)
    monkeypatch.setattr(reproduce.pack, "collect", lambda place, profile, since: f"{place}/{profile}.tar.xz")

    def failing(*_, **__):
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(reproduce, "fill", failing)
    with pytest.raises(RuntimeError, match="the driver is gone"):
        reproduce.main(["--profile", "smoke", "--minutes", "1", "--packed", "taken"])
    assert capsys.readouterr().out.splitlines()[-1] == "the records: taken/smoke.tar.xz"


def test_minutes_are_for_what_is_missing_and_for_profiles_with_an_order(capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["--profile", "smoke", "--minutes", "1", "--compute", "none"])
    assert "--minutes computes what is missing, not 'none'; leave --compute out" in capsys.readouterr().err
    assert reproduce.main(["--profile", "smoke", "--minutes", "1"]) == 2
    assert "the profile smoke has no order of runs for a number of minutes; valid: gpu" in capsys.readouterr().err


def test_a_profile_whose_weights_or_tasks_are_missing_says_so_at_once(project, monkeypatch, capsys, tmp_path):
    write(project / "01_one.ipynb")
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    assert reproduce.main(["--profile", "paper"]) == 2
    assert "the profile paper cannot be run here: 'ViT-B_16.npz' is neither in" in capsys.readouterr().err
    (tmp_path / "ViT-B_16.npz").touch()
    assert reproduce.main(["--profile", "paper"]) == 2
    assert "for lack of tasks: there is no folder" in capsys.readouterr().err
    assert not (project.parent / "out").exists()


def test_where_only_runs_are_computed_no_package_of_notebooks_is_needed():
    program = "import sys, reproduce; reproduce.arguments(['--minutes', '1']); print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).split())
    assert not {"papermill", "nbformat", "nbconvert", "sphinx", "ipykernel", "matplotlib", "seaborn"} & loaded
