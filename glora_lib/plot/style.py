"""What all figures share: colours, markers and hatches that stay apart in grey, the last touch, and where a figure is kept."""

from pathlib import Path

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from glora_lib.paths import OUT
from glora_lib.runs.profile import Profile

# dark to light, so that lines and bars stay apart in grey; markers tell them apart a second time
GREYSAFE = ("#1b2a41", "#b5442e", "#3d7ea6", "#e0a458", "#8aa29e")
MARKERS = ("o", "s", "^", "D", "v")
HATCHES = ("", "//", "..", "xx", "--")


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
