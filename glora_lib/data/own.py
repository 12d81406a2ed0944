"""Labelled pictures of your own: a folder of class folders, a table, or lists as in VTAB; found, checked, and split.

pictures/cat/1.jpg  pictures/dog/x/2.png ...         a folder a class
pictures/train/cat/1.jpg  pictures/test/cat/2.jpg    the same for each split that is given
labels.csv                                           a line a picture: path, label and, if you like, split
pictures/train800.txt  val200.txt  test.txt          lists as in VTAB, see `folder`
"""

import csv
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from glora_lib.data.folder import LISTS, cause, decode, from_rows, hashes_of, load_folder, read_list
from glora_lib.data.notes import Row
from glora_lib.data.task import DataError, Task

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
PATHS, LABELS = ("path", "file", "filename", "image"), ("label", "class", "category", "target")  # names of a table's columns
SHARES = {"test": 0.2, "val": 0.2}  # of the pictures of a class that belong to no split


@dataclass(frozen=True)
class Own:
    """Pictures as a task, and the file of each of them: split -> paths, in the task's order."""

    task: Task
    files: dict[str, list[Path]]


Listed = list[tuple[Path, str, str]]  # a picture, the name of its class, and its split, "" where none is given


def load_own(place: str | Path, size: int, seed: int = 0) -> Own:
    """Return the pictures of `place`, a folder or a .csv, as a task, resized to `size` pixels, and their files.

    What is not split yet is split by `seed`: of each class a fifth for test and a fifth for val, one at least; pictures of the
    same bytes stay together. The task's notes say what was left out and what should be known.
    Raises `DataError` where there are no pictures, or fewer than two classes or three pictures of some class.
    """
    place = Path(place).expanduser()
    if not place.exists():
        raise DataError(f"there is no {place.absolute()}; give a folder of class folders, or a .csv of paths and labels")
    if place.is_dir() and all((place / name).is_file() for name in LISTS.values()):
        seen: dict[Path, str] = {}
        files = {part: [path for path, _, _ in read_list(place, name, None, seen)] for part, name in LISTS.items()}
        return Own(load_folder(place, size), files)
    listed = _listed(place)
    names = sorted({name for _, name, _ in listed})
    loose = sum(path.suffix.lower() in PICTURES for path in place.iterdir()) if place.is_dir() else 0
    if len(names) < 2:
        nothing = f"{loose} pictures, but none in a folder of its class" if loose else "no pictures"
        found = f"one class only, {names[0]!r}" if names else nothing
        raise DataError(f"{place} has {found}; a model needs two classes to tell apart: give each a folder of its own")
    rows, notes = readable(listed, names)
    lists = split(rows, {path: part for path, _, part in listed}, seed)
    thin = [names[label] for label in range(len(names)) if not any(row[1] == label for row in lists["train"])]
    if thin:
        raise DataError(f"{place} has no picture to train on for {', '.join(thin[:5])}; add some, or remove the class")
    for part in ("val", "test"):
        if not lists[part]:
            counted = ", ".join(f"{name} {sum(row[1] == label for row in rows)}" for label, name in enumerate(names[:10]))
            raise DataError(
                f"{place} has too few pictures for a split of its own for {part}: a class needs three different ones, here are "
                f"{counted}"
            )
    name = place.stem if place.is_file() else place.absolute().name
    task = from_rows(name, "own", "", tuple(names), lists, size)
    counts = Counter(label for part in lists.values() for _, label, _ in part)
    if max(counts.values()) >= 5 * min(counts.values()):
        few, many = (names[pick(counts, key=counts.get)] for pick in (min, max))
        notes.append(f"classes are uneven: {many!r} has {max(counts.values())} pictures, {few!r} {min(counts.values())}")
    folders = {path.name for path in place.iterdir() if path.is_dir() and path.name[0] != "."} if place.is_dir() else set()
    if folders & set(names):  # class folders, and no table
        if empty := sorted(folders - set(names)):
            notes.append(f"without pictures, and so no class: {', '.join(empty[:5])}")
        if loose:
            notes.append(f"{loose} picture{'s lie' if loose > 1 else ' lies'} beside the class folders and are left out")
    flat = sum(_flat(part.raw) for part in (task.train, task.val, task.test))
    if flat:
        notes.append(f"{flat} picture{'s are' if flat > 1 else ' is'} of one colour all over")
    files = {part: [path for path, _, _ in found] for part, found in lists.items()}
    return Own(replace(task, notes=(*task.notes, *notes)), files)


def _flat(raw) -> int:
    """Return how many pictures have one colour all over; 0 for those that are too many to be in memory."""
    return int((raw == raw[:, :, :1, :1]).flatten(1).all(1).sum()) if isinstance(raw, Tensor) else 0


def _listed(place: Path) -> Listed:
    """Return the pictures of a table, or those of class folders; a table in a folder counts if it is the only one."""
    if place.is_file():
        return table(place)
    folders, tables = class_folders(place), sorted(place.glob("[!.]*.csv"))
    if len(tables) != 1:
        return folders
    try:
        return table(tables[0])
    except DataError:  # some other table, beside folders that say it all
        if folders:
            return folders
        raise


def class_folders(root: Path) -> Listed:
    """Return the pictures in the folders of `root`, one a class, or one a split with one a class inside."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts = {path: SPLITS.get(path.name.lower(), "") for path in folders}
    if folders and all(parts.values()) and "train" in parts.values():
        return [
            (path, name, part) for folder, part in parts.items() for path, name, _ in class_folders(folder)
        ]  # fmt: skip
    return [(path, folder.name, "") for folder in folders for path in sorted(_pictures(folder))]


def _pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures in a folder and in those inside it, links to folders included, each of these once."""
    seen = set()
    for place, inside, names in os.walk(folder, followlinks=True):
        inside[:] = [name for name in inside if not name.startswith(".")]
        if (real := os.path.realpath(place)) in seen:
            inside.clear()
            continue
        seen.add(real)
        paths = (Path(place, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.suffix.lower() in PICTURES and path.is_file())


def table(file: Path) -> Listed:
    """Return the pictures that a table names, their paths relative to it; separated by commas, semicolons or tabs."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}); save it as a CSV in UTF-8") from error
    head = (text.splitlines() or [""])[0]
    separator = max(",;\t", key=head.count)
    reader = csv.DictReader(text.splitlines(), delimiter=separator)
    columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    path, label = (next((columns[name] for name in names if name in columns), None) for names in (PATHS, LABELS))
    if path is None or label is None:
        expected = f"one of {', '.join(PATHS)} and one of {', '.join(LABELS)}"
        raise DataError(f"{file}, line 1: its columns are {', '.join(columns) or 'none'}; expected {expected}")
    listed: Listed = []
    for row in reader:
        number = reader.line_num  # blank lines count
        name, part = (row[label] or "").strip(), (row.get(columns.get("split", ""), "") or "").strip().lower()
        if not (row[path] or "").strip() or not name:
            raise DataError(f"{file}, line {number}: a path or a label is missing")
        if part and part not in SPLITS:
            raise DataError(f"{file}, line {number}: the split {part!r} is not known; valid: train, val, test, or nothing")
        listed.append((file.parent / row[path].strip(), name, SPLITS.get(part, "")))
    if twice := [path for path, times in Counter(path for path, _, _ in listed).items() if times > 1]:
        raise DataError(f"{file}: {twice[0].name} is listed {Counter(p for p, _, _ in listed)[twice[0]]} times; keep one line")
    return listed


def readable(listed: Listed, names: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Return the rows of the pictures that can be read, and a note on the others; `DataError` if none can, or one is absent."""
    rows, broken = [], []
    for path, name, _ in listed:
        if not path.is_file():
            why = cause(path.parent, path.name, "mend the table's path, which is relative to the table")
            raise DataError(f"there is no picture {path}; {why}")
        try:
            decode(path)
        except DataError as error:
            broken.append(
                f"{path.name} ({' '.join(str(error.__cause__ or error).split()).replace(str(path), path.name)[:200]})"
            )
            continue
        rows.append((path, names.index(name), str(path)))
    if not rows:
        raise DataError(f"no picture could be read, such as {broken[0]}")
    if not broken:
        return rows, []
    one = len(broken) == 1
    what = "file cannot be read and is" if one else "files cannot be read and are"
    return rows, [f"{len(broken)} {what} left out: {'; '.join(broken[:3])}"]


def split(rows: Sequence[Row], given: Mapping[Path, str], seed: int) -> dict[str, list[Row]]:
    """Return train, val and test: what is given stays, and of what is not a share of each class is drawn for each.

    Pictures of the same bytes go where the first of them goes. Where test is given, none is drawn for it, and so for val; where
    one is not, what is given for train is drawn from.
    """
    lacking = {part for part in SHARES if part not in given.values()}
    given = {path: "" if lacking and part == "train" else part for path, part in given.items()}
    lists: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    contents = dict(zip([path for path, _, _ in rows], hashes_of({"all": rows})["all"], strict=True))
    places: dict[bytes, str] = {}
    for row in rows:
        if part := given[row[0]]:
            places.setdefault(contents[row[0]], part)
            lists[part].append(row)
    shares = {part: share for part, share in SHARES.items() if not lists[part]}
    rng = random.Random(seed)
    for label in sorted({row[1] for row in rows}):
        groups: dict[bytes, list[Row]] = {}
        for row in rows:
            if row[1] == label and not given[row[0]]:
                groups.setdefault(contents[row[0]], []).append(row)
        free = [content for content in groups if content not in places]
        rng.shuffle(free)
        total = sum(len(groups[content]) for content in free)
        for number, (part, share) in enumerate(shares.items()):
            # the first picture of a class is to train on, the second to test on, the third to choose by
            wanted, got = (max(1, round(share * total)) if len(free) > 1 and len(groups) > number + 1 else 0), 0
            while got < wanted and len(free) > 1:
                content = free.pop()
                places[content] = part
                got += len(groups[content])
        for content, members in groups.items():
            lists[places.setdefault(content, "train")] += members
    return lists


def write_folder(task: Task, root: Path, number: int) -> Path:
    """Write the first `number` pictures of a task, train before val before test, as JPEGs into class folders; return `root`."""
    left = number
    for part in ("train", "val", "test"):
        images = getattr(task, part)
        for index in range(min(left, len(images))):
            place = root / task.class_names[int(images.labels[index])].replace("/", "-") / f"{part}{index:05d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.raw[index].permute(1, 2, 0).numpy()).save(place, quality=95)
        left -= min(left, len(images))
    return root
