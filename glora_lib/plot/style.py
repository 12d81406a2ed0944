"""What all figures share: colours, markers and hatches that stay apart in grey, the last touch, and where a figure is kept."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from glora_lib.runs.paths import OUT
from glora_lib.runs.profile import Profile

# dark to light, so that lines and bars stay apart in grey; markers tell them apart a second time
GREYSAFE = ("#1b2a41", "#b5442e", "#3d7ea6", "#e0a458", "#8aa29e")
MARKERS = ("o", "s", "^", "D", "v")
HATCHES = ("", "//", "..", "xx", "--")


# One colour, marker and hatch a method, in every figure; the strongest is GLoRA's.
METHODS = {
    "glora": ("#1b2a41", "o", ""),
    "lora": ("#b5442e", "s", "//"),
    "vpt": ("#3d7ea6", "^", ".."),
    "adapter": ("#e0a458", "D", "xx"),
    "noah": ("#8aa29e", "v", "--"),
    "fact": ("#7d5ba6", "X", "\\\\"),
    "linear": ("#777777", "P", "++"),
}


def look(name: str, number: int) -> tuple[str, str, str]:
    """Return colour, marker and hatch: a method's own ("GLoRA", "vpt_deep"), or those of the place `number` in a figure."""
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    return METHODS.get(words[0]) or (GREYSAFE[number % 5], MARKERS[number % 5], HATCHES[number % 5])


def looks(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return a look for each name of a figure, no two alike: a method's own first, and another hatch where a look is taken."""
    found: dict[str, tuple[str, str, str]] = {}
    for name in sorted(names, key=lambda name: look(name, 0) != look(name, 1)):  # methods with looks of their own
        color, marker, hatch = look(name, list(names).index(name))
        taken = {other[2] for other in found.values() if other[0] == color}
        found[name] = (color, marker, next(free for free in (hatch, *HATCHES, *"+xo") if free not in taken))
    return [found[name] for name in names]


def save(figure: Figure, name: str, profile: Profile) -> Path:
    """Write the figure as `out/<profile>/figures/<name>.png`; return the path. The committed ones stay as they are."""
    path = OUT / profile.name / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
    return path


def finish(figure: Figure, spines: bool = True) -> Figure:
    if spines:
        sns.despine(figure)
    figure.tight_layout()
    plt.close(figure)  # a notebook shows the figure that a cell returns, once
    return figure
