"""Figures beside the committed ones: rounding passes, anything else is named with its size, and only asking rewrites."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from glora_lib import plot
from glora_lib.plot import committed, style
from glora_lib.runs.profiles import SMOKE


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A profile whose drawn and committed figures lie below a folder of the test."""
    for module in (committed, style):
        monkeypatch.setattr(module, "OUT", tmp_path / "out")
    monkeypatch.setattr(committed, "ROOT", tmp_path)
    (tmp_path / "figures").mkdir()
    return replace(SMOKE, name="tiny", figures="figures")


def put(path, image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def patched(image, height: int, width: int):
    """The picture with a dark place of so many pixels."""
    image = image.copy()
    image[5 : 5 + height, 5 : 5 + width] = 0
    return image


def test_saving_leaves_the_committed_figure_alone(profile, tmp_path):
    before = tmp_path / "figures" / "00_one.png"
    before.write_bytes(b"as it was")
    path = plot.save(Figure((1, 1)), "00_one", profile)
    assert path == tmp_path / "out" / "tiny" / "figures" / "00_one.png"
    assert path.exists()
    assert before.read_bytes() == b"as it was"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda image: image, ""),
        (lambda image: np.where(image < 250, image + 5, image), ""),  # the last bits of a colour
        (lambda image: patched(image, 1, 4), ""),  # the end of a line, a pixel farther
        (lambda image: patched(image, 2, 2), "4 of its 2,000 pixels differ"),
        (lambda image: np.concatenate([image[1:], image[:1]]), "80 of its 2,000 pixels differ by more"),  # two rows of fifty
        (lambda image: image[:, :39], "is 39 x 50 pixels large, 40 x 50 before"),
        (lambda image: np.concatenate([255 - image[:10], image[10:]]), "400 of its 2,000 pixels differ"),
    ],
    ids=["same", "rounding", "edge", "dot", "shifted", "size", "content"],
)
def test_a_difference_is_named_with_its_size_and_rounding_is_none(profile, tmp_path, changed, said):
    image = np.full((50, 40, 3), 240, np.uint8)
    image[25:, :] = 40
    put(tmp_path / "figures" / "01_two.png", image)
    put(tmp_path / "out" / "tiny" / "figures" / "01_two.png", changed(image).astype(np.uint8))
    (figure,) = committed.compare(profile)
    assert figure.difference.startswith(said)
    assert bool(figure.difference) == bool(said)


def test_only_asking_rewrites_and_only_what_differs(profile, tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    for name, drawn in (("01_same", image), ("02_other", image + 255), ("03_fresh", image)):
        put(tmp_path / "out" / "tiny" / "figures" / f"{name}.png", drawn)
        if name != "03_fresh":
            put(tmp_path / "figures" / f"{name}.png", image)
    figures = committed.compare(profile)
    assert {figure.name: bool(figure.difference) for figure in figures} == {"01_same": 0, "02_other": 1, "03_fresh": 1}
    assert [path.name for path in committed.rewrite(profile, figures)] == ["02_other.png", "03_fresh.png"]
    assert not any(figure.difference for figure in committed.compare(profile))


def test_figures_of_an_earlier_run_and_profiles_without_committed_ones_are_left_out(profile, tmp_path):
    put(tmp_path / "out" / "tiny" / "figures" / "01_old.png", np.zeros((8, 8, 3), np.uint8))
    assert committed.compare(profile, since=2e10) == []
    assert committed.compare(replace(profile, figures="")) == []


def test_no_two_bars_look_alike_and_methods_keep_their_own():
    names = ["linear", "full", "bitfit", "lora", "glora_conv", "glora_conv_norm"]
    found = style.looks(names)
    assert len({(color, hatch) for color, _, hatch in found}) == len(names)
    assert found[3] == style.METHODS["lora"]
    assert found[4] == style.METHODS["glora"]
    assert found[2] == style.look("bitfit", 2)
