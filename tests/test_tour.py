"""The tour of the library: the same in the README and in the package, and it runs as it is written."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import glora_lib as gl
from glora_lib.data.task import Images

README = Path(__file__).resolve().parents[1] / "README.md"


def code(text: str) -> list[str]:
    """The lines of code without their comments."""
    return [bare for line in text.splitlines() if (bare := re.sub(r"\s+#.*$", "", line).strip())]


def test_the_readme_s_tour_is_the_package_s():
    shown = re.search(r"```python\n(import glora_lib.*?)```", README.read_text(encoding="utf-8"), re.DOTALL).group(1)
    assert code(shown) == code(gl.__doc__.partition("\n\n")[2])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_tour_runs(monkeypatch, capsys):
    short = {"population": 4, "parents": 2, "mutations": 2, "crossovers": 2, "generations": 1}
    profile = replace(gl.PROFILES["cpu"], image_size=28, epochs=1, warmup_epochs=0, **short)
    monkeypatch.setitem(gl.PROFILES, "cpu", profile)
    load = gl.load_task
    cut = lambda images, number: Images(images.raw[:number], images.labels[:number])  # noqa: E731

    def few(name: str, profile) -> gl.Task:
        task = load(name, profile)
        return replace(task, train=cut(task.train, 400), val=cut(task.val, 64), test=cut(task.test, 400))

    monkeypatch.setattr(gl, "load_task", few)
    exec(gl.__doc__.partition("\n\n")[2], {})
    assert 0.1 < float(capsys.readouterr().out) < 1
