"""What should be known of image files before their numbers are believed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from glora_lib.data.pixels import transparent, turned

Row = tuple[Path, int, str]  # an image, its label, and the list and line that name it


def notes_of(
    lists: Mapping[str, Sequence[Row]], hashes: Mapping[str, Sequence[bytes]], names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return notes on the images of each split, and those among them that call an accuracy into question, as sentences.

    `hashes` are of the files, in the lists' order; `names` are the classes'. The first are on transparent pictures, on
    pictures that EXIF turns and on the same picture twice in a split; the second on the same picture in two splits, under two
    labels, and on classes of which there is no picture.
    """
    grave = [note for split in ("val", "test") for note in _shared(lists, hashes, split)]
    labels: dict[bytes, set[int]] = {}
    for split, rows in lists.items():
        for (_, label, _), content in zip(rows, hashes[split], strict=True):
            labels.setdefault(content, set()).add(label)
    if torn := sum(len(found) > 1 for found in labels.values()):
        grave.append(f"{_pictures(torn)} {_are(torn)} there under two labels")
    missing = sorted(set(range(len(names))) - {label for rows in lists.values() for _, label, _ in rows})
    notes = []
    if missing:
        first = " Are labels counted from 1?" if missing == [0] else ""
        shown = ", ".join(names[label] for label in missing[:5])
        unnamed = tuple(names) == tuple(map(str, range(len(names))))
        (grave if unnamed else notes).append(f"{len(missing)} of {len(names)} classes have no picture: {shown}.{first}")
    rows = [row for part in lists.values() for row in part]
    counts = Counter(sign for path, _, _ in rows for sign in _signs(path))
    if number := counts["transparent"]:
        notes.append(f"{_pictures(number)} may have transparent parts, which are laid on white")
    if number := counts["turned"]:
        notes.append(f"{_pictures(number)} {_are(number)} turned by EXIF, which is not applied")
    for split, found in hashes.items():
        if number := len(found) - len(set(found)):
            notes.append(f"{_pictures(number)} of {split} {_are(number)} there twice")
    return notes, grave


def _shared(lists: Mapping[str, Sequence[Row]], hashes: Mapping[str, Sequence[bytes]], split: str) -> list[str]:
    notes = []
    for other in ("train", "val"):
        if split == other or split not in hashes or other not in hashes:
            continue
        there = set(hashes[other])
        same = [path for (path, _, _), content in zip(lists[split], hashes[split], strict=True) if content in there]
        if same:
            notes.append(f"{_pictures(len(same))} of {split} {_are(len(same))} in {other} too, such as {same[0].name}")
    return notes


def _signs(path: Path) -> list[str]:
    """Return what a picture's header says of it; nothing for one that cannot be read, which decoding reports."""
    try:
        with Image.open(path) as image:
            signs = {"transparent": transparent(image), "turned": turned(image)}
    except Exception:
        return []
    return [sign for sign, there in signs.items() if there]


def _pictures(number: int) -> str:
    return f"{number:,} picture{'s' if number > 1 else ''}"


def _are(number: int) -> str:
    return "are" if number > 1 else "is"
