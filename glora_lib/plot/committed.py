"""Figures that came out, held against the committed ones, which are rewritten only when somebody asks."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from glora_lib.runs.paths import OUT, ROOT
from glora_lib.runs.profile import Profile

STEP = 24  # of 255: what antialiasing moves a pixel by when a coordinate is rounded otherwise
ROUNDING = 0.002  # share of a figure's pixels that edges may have moved over, a pixel far, before it says something else


@dataclass(frozen=True)
class Compared:
    """A figure that came out. `difference` is empty where it is the committed one but for rounding."""

    name: str
    difference: str


def compare(profile: Profile, since: float = 0.0) -> list[Compared]:
    """Return, in order of names, the figures of a profile that were drawn after `since`, a time as files have it.

    A profile without committed figures gives an empty list.
    """
    drawn = sorted((OUT / profile.name / "figures").glob("*.png")) if profile.figures else []
    return [Compared(path.stem, difference(path, committed(path, profile))) for path in drawn if path.stat().st_mtime >= since]


def difference(drawn: Path, before: Path) -> str:
    """Return what differs between two pictures in words with its size, or "" for no more than rounding."""
    if not before.exists():
        return "is not committed"
    images = [np.asarray(Image.open(path).convert("RGB"), np.int16) for path in (drawn, before)]
    sizes = [f"{image.shape[1]} x {image.shape[0]}" for image in images]
    if sizes[0] != sizes[1]:
        return f"is {sizes[0]} pixels large, {sizes[1]} before"
    apart = np.abs(images[0] - images[1]).max(axis=2) > STEP
    block = apart[1:, 1:] & apart[:-1, 1:] & apart[1:, :-1] & apart[:-1, :-1]  # 2 x 2: more than an edge beside its place
    if not block.any() and apart.mean() <= ROUNDING:
        return ""
    return f"{apart.sum():,} of its {apart.size:,} pixels differ by more than {STEP} of 255"


def rewrite(profile: Profile, figures: list[Compared]) -> list[Path]:
    """Copy the figures that differ over the committed ones; return the paths that were written."""
    written = []
    for name in (figure.name for figure in figures if figure.difference):
        drawn = OUT / profile.name / "figures" / f"{name}.png"
        committed(drawn, profile).parent.mkdir(parents=True, exist_ok=True)
        written.append(Path(shutil.copyfile(drawn, committed(drawn, profile))))
    return written


def committed(drawn: Path, profile: Profile) -> Path:
    """Return where the committed counterpart of a drawn figure lies."""
    return ROOT / profile.figures / drawn.name
