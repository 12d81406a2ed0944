"""Pictures of your own: found in every layout, split with everything that a split must keep apart, refused with a reason."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glora_lib.data import DataError, DataWarning
from glora_lib.data.own import load_own


def draw(path: Path, seed: int, flat: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = np.full((6, 5, 3), seed % 256, np.uint8) if flat else rng.integers(0, 256, (6, 5, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three classes of 20, 10 and 5 pictures, some a folder deeper, beside junk."""
    root = tmp_path / "animals"
    for number, (name, size) in enumerate({"cat": 20, "dog": 10, "owl": 5}.items()):
        for index in range(size):
            draw(root / name / ("more" if index % 3 == 0 else "") / f"{index}.png", 1000 * number + index)
    (root / "cat" / "._0.png").write_bytes(b"junk")
    (root / "cat" / "Thumbs.db").write_bytes(b"junk")
    (root / ".cache").mkdir()
    return root


def counts(own) -> dict[str, list[int]]:
    return {
        part: getattr(own.task, part).labels.bincount(minlength=own.task.classes).tolist() for part in ("train", "val", "test")
    }


def test_class_folders_are_split_by_class_and_by_seed(pictures):
    own = load_own(pictures, 4)
    assert own.task.class_names == ("cat", "dog", "owl")
    assert counts(own) == {"train": [12, 6, 3], "val": [4, 2, 1], "test": [4, 2, 1]}
    files = [path for part in own.files.values() for path in part]
    assert len(set(files)) == 35
    assert all(path.parts[len(pictures.parts)] == own.task.class_names[label]
               for part in ("train", "val", "test")
               for path, label in zip(own.files[part], getattr(own.task, part).labels, strict=True))  # fmt: skip
    assert load_own(pictures, 4).files == own.files
    assert load_own(pictures, 4).task.sha256 == own.task.sha256
    assert load_own(pictures, 4, seed=1).files != own.files


def test_the_same_picture_stays_in_one_split(pictures):
    for index in range(10):
        (pictures / "dog" / f"copy{index}.png").write_bytes((pictures / "dog/1.png").read_bytes())
    (pictures / "owl/as a cat.png").write_bytes((pictures / "cat/1.png").read_bytes())
    with pytest.warns(DataWarning, match="1 picture is there under two labels"):
        own = load_own(pictures, 4)
    places = {}
    for part, files in own.files.items():
        for path in files:
            places.setdefault(path.read_bytes(), set()).add(part)
    assert all(len(parts) == 1 for parts in places.values())
    assert sum(map(len, own.files.values())) == 46


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_table_names_pictures_labels_and_splits(pictures, separator, beside):
    rows = [("Path", "Label", "split")]
    for path in sorted(pictures.rglob("[0-9]*.png")):
        relative = path.relative_to(pictures if beside else pictures.parent)
        rows.append(
            (relative, path.relative_to(pictures).parts[0], "valid" if path.stem == "1" else "test" if path.stem == "2" else "")
        )
    file = (pictures if beside else pictures.parent) / "labels.csv"
    file.write_bytes("﻿".encode() + "\r\n".join(separator.join(map(str, row)) for row in rows).encode())
    own = load_own(pictures if beside else file, 4)
    assert counts(own) == {"train": [18, 8, 3], "val": [1, 1, 1], "test": [1, 1, 1]}
    assert own.task.name == ("animals" if beside else "labels")


def test_folders_that_are_split_already_stay_so_and_what_lacks_is_drawn(pictures, tmp_path):
    root = tmp_path / "split"
    for index, path in enumerate(sorted(pictures.rglob("[0-9]*.png"))):
        target = root / ("test" if index % 5 == 0 else "train") / path.relative_to(pictures).parts[0] / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    own = load_own(root, 4)
    assert all("test" in path.parts for path in own.files["test"])
    assert len(own.files["test"]) == 7
    assert counts(own)["val"] == [3, 2, 1]
    assert not {path for path in own.files["val"] if "test" in path.parts}


def test_lists_as_in_vtab_are_read(tmp_path):
    for index in range(9):
        draw(tmp_path / "set/images" / f"{index}.png", index)
    for number, name in enumerate(("train800", "val200", "test")):
        lines = "".join(f"images/{3 * number + i}.png {i % 2}\n" for i in range(3))
        (tmp_path / "set" / f"{name}.txt").write_text(lines)
    own = load_own(tmp_path / "set", 4)
    assert counts(own) == {"train": [2, 1], "val": [2, 1], "test": [2, 1]}
    assert [path.name for path in own.files["test"]] == ["6.png", "7.png", "8.png"]


def test_what_should_be_known_is_noted(pictures):
    (pictures / "cat/broken.jpg").write_bytes(b"<html>")
    for index in range(3):
        draw(pictures / "cat" / f"flat{index}.png", index, flat=True)
    for index in range(20, 40):
        draw(pictures / "cat" / f"{index}.png", index)
    notes = load_own(pictures, 4).task.notes
    assert notes == (
        "1 file cannot be read and is left out: broken.jpg (cannot identify image file 'broken.jpg')",
        "classes are uneven: 'cat' has 43 pictures, 'owl' 5",
        "3 pictures are of one colour all over",
    )


def one_class(root: Path):
    for name in ("dog", "owl"):
        for path in (root / name).rglob("*.png"):
            path.unlink()


def nothing(root: Path):
    one_class(root)
    for path in (root / "cat").rglob("*.png"):
        path.unlink()


def two_each(root: Path):
    for name in ("cat", "dog", "owl"):
        for path in sorted((root / name).rglob("[0-9]*.png"))[2:]:
            path.unlink()


def csv(text: str):
    return lambda root: (root / "labels.csv").write_text(text, encoding="utf-8") and nothing(root)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (one_class, "has one class only, 'cat'; a model needs two classes"),
        (nothing, "has no pictures; a model needs two classes"),
        (two_each, "has too few pictures for a split of its own for val: a class needs three different ones, here are cat 2"),
        (lambda root: root.rename(root.parent / "else"), "there is no .*animals; give a folder of class folders"),
        (csv("name,kind\n"), r"labels.csv, line 1: its columns are name, kind; expected one of path, file"),
        (csv("path,label\na.png,cat\nb.png,\n"), r"labels.csv, line 3: a path or a label is missing"),
        (csv("path,label\n\na.png,cat\n\nb.png,\n"), r"labels.csv, line 5: a path or a label is missing"),
        (csv("path,label,split\na.png,cat,some\n"), r"labels.csv, line 2: the split 'some' is not known"),
        (csv("path,label\na.png,cat\na.png,dog\n"), r"labels.csv: a.png is listed 2 times"),
        (csv("path,label\na.png,cat\nb.png,dog\n"), r"there is no picture .*a.png; mend the table's path"),
        (csv("path,label\na\\1.png,cat\nb.png,dog\n"), r"there is no picture .*; the path has backslashes: write it with /"),
    ],
)
def test_what_cannot_be_used_says_why(pictures, spoil, message):
    spoil(pictures)
    with pytest.raises(DataError, match=message):
        load_own(pictures, 4)


def test_pictures_without_a_class_and_classes_without_pictures_are_said(pictures):
    (pictures / "empty").mkdir()
    for number in range(2):
        Image.new("RGB", (4, 4)).save(pictures / f"loose{number}.png")
    notes = " ".join(load_own(pictures, 4).task.notes)
    assert "without pictures, and so no class: empty" in notes
    assert "2 pictures lie beside the class folders and are left out" in notes
    nothing(pictures)
    with pytest.raises(DataError, match="has 2 pictures, but none in a folder of its class"):
        load_own(pictures, 4)


def test_twenty_pictures_are_enough(tmp_path):
    for index in range(20):
        draw(tmp_path / ("a" if index % 2 else "b") / f"{index}.png", index)
    assert counts(load_own(tmp_path, 4)) == {"train": [6, 6], "val": [2, 2], "test": [2, 2]}
    assert Counter(map(len, load_own(tmp_path, 4).files.values())) == {12: 1, 4: 2}
