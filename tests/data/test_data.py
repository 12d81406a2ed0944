"""Tasks: deterministic, disjoint, balanced; and every way in which a VTAB folder can be wrong is named."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from glora_lib import data
from glora_lib.data import DataError, DataWarning, Images, load_folder, load_task, loaded, tasks
from glora_lib.data.folder import CLASSES, Files
from glora_lib.runs import paths
from glora_lib.runs.profile import VTAB_1K
from glora_lib.runs.profiles import CPU, PAPER

SMALL = replace(CPU, image_size=16)
SPLITS = ("train", "val", "test")


# --- tasks by name ----------------------------------------------------------------------------------------------------


def test_sha256_depends_on_pixels_and_labels():
    images, labels = np.zeros((2, 4, 4), np.uint8), np.array([0, 1])
    splits = dict.fromkeys(SPLITS, (images, labels))
    found = set()
    for train in ((images, labels), (images + 1, labels), (images, labels[::-1])):
        found.add(data.task.from_arrays("x", "smoke", "", "ab", {**splits, "train": train}, 4).sha256)
    assert len(found) == 3


def test_gratings_can_be_learned():
    task = load_task("gratings", "smoke")

    def spectrum(images: Images) -> np.ndarray:
        return np.abs(np.fft.fft2(images.raw[:, 0].numpy()))[:, :9, :].reshape(len(images), -1)

    train, test = spectrum(task.train), spectrum(task.test)
    nearest = ((test[:, None] - train[None]) ** 2).sum(-1).argmin(1)
    assert (task.train.labels[nearest] == task.test.labels).float().mean() > 0.6  # chance: 0.25


def test_tasks_are_loaded_once_a_process():
    assert load_task("gratings", SMALL) is load_task("gratings", SMALL)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(DataError, match=r"unknown task 'mnist'; valid names: .*mnist_5k.*clevr_count.*cifar10"):
        load_task("mnist", SMALL)
    with pytest.raises(DataError, match=r"unknown profile 'tpu'; valid names: smoke, cpu, gpu, paper"):
        load_task("gratings", "tpu")


def test_the_profile_says_which_clevr_count_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"there is no folder .*vtab-1k.clevr_count.*GLORA_DATA_DIR"):
        load_task("clevr_count", PAPER)
    rendered = load_task("gratings", SMALL)  # stands in for the rendering, which takes a minute
    monkeypatch.setattr(tasks, "cached_built_in", lambda name, size: rendered)
    assert load_task("clevr_count", CPU) is rendered
    with pytest.raises(DataError, match=r"there is no folder .*vtab-1k.clevr_count"):
        load_task("clevr_count", replace(CPU, vtab_folders=True))


def test_tasks_stay_loaded_while_there_is_room(monkeypatch):
    task, calls = load_task("gratings", SMALL), []
    loaded.forget()

    @loaded.stays
    def load(name: str, size: int):
        calls.append(name)
        return task

    assert load("a", 8) is load("a", 8)
    load("b", 8)
    load("a", 8)
    assert calls == ["a", "b"]
    monkeypatch.setattr(loaded, "ROOM", 2 * loaded._size(task))
    load("c", 8)  # takes the place of b, which was asked for before a
    load("a", 8)
    assert calls == ["a", "b", "c"]
    load("b", 8)
    assert calls == ["a", "b", "c", "b"]
    monkeypatch.setattr(loaded, "ROOM", 0)
    assert load("d", 8) is load("d", 8)
    loaded.forget()
    load("d", 8)
    assert calls[4:] == ["d", "d"]


# --- reading images ---------------------------------------------------------------------------------------------------


def test_indexing_one_and_many():
    images = load_task("gratings", SMALL).train
    image, label = images[3]
    assert image.shape == (3, 16, 16)
    assert (image.dtype, label.dtype, label.shape) == (torch.float32, torch.int64, ())
    for index in ([5, 3], torch.tensor([5, 3]), np.array([5, 3])):
        batch, labels = images[index]
        assert batch.shape == (2, 3, 16, 16)
        assert torch.equal(batch[1], image)
        assert labels.tolist() == images.labels[[5, 3]].tolist()
    with pytest.raises(IndexError):
        images[64]


def test_normalisation_is_imagenets():
    raw = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    raw[0, 0] = 255
    image, _ = Images(raw, [0])[0]
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(image[:, 0, 0], expected)


def test_a_loader_reads_whole_batches():
    images = load_task("gratings", SMALL).train
    sampler = BatchSampler(RandomSampler(images, generator=torch.Generator().manual_seed(0)), 24, drop_last=False)
    batches = list(DataLoader(images, sampler=sampler, batch_size=None))
    assert [len(labels) for _, labels in batches] == [24, 24, 16]
    assert torch.cat([labels for _, labels in batches]).bincount().tolist() == [16] * 4


@pytest.mark.parametrize("raw", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)])
def test_images_refuse_other_types_and_shapes(raw):
    with pytest.raises(DataError, match="uint8"):
        Images(raw, [0, 1])


def test_images_refuse_other_numbers_of_labels():
    with pytest.raises(DataError, match="2 images need 2 labels"):
        Images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0])


# --- VTAB folders -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """A whole task folder: 4 / 2 / 3 JPEG images of three classes, 10 x 8 pixels."""
    root, rng = tmp_path / "vtab-1k" / "birds", np.random.default_rng(0)
    for split, size in (("train800", 4), ("val200", 2), ("test", 3)):
        (root / "images" / split).mkdir(parents=True)
        rows = []
        for index in range(size):
            name = f"images/{split}/{index:06d}.jpg"
            Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).save(root / name)
            rows.append(f"{name} {index % 3}\n")
        (root / f"{split}.txt").write_text("".join(rows))
    return root


def test_folder_is_read(folder):
    task = load_folder(folder, 12)
    assert (task.name, task.classes, task.class_names) == ("birds", 3, ("0", "1", "2"))
    assert [len(getattr(task, split)) for split in SPLITS] == [4, 2, 3]
    assert task.train.labels.tolist() == [0, 1, 2, 0]
    with Image.open(folder / "images/test/000001.jpg") as image:
        expected = np.asarray(image.resize((12, 12), Image.Resampling.BICUBIC))
    assert np.array_equal(task.test.raw[1].permute(1, 2, 0), expected)
    assert load_folder(folder, 6).sha256 == task.sha256


def test_folder_sha256_covers_files_and_labels(folder):
    before = load_folder(folder, 8).sha256
    (folder / "images/test/000000.jpg").write_bytes((folder / "images/test/000001.jpg").read_bytes())
    changed = load_folder(folder, 8).sha256
    text = (folder / "val200.txt").read_text()
    (folder / "val200.txt").write_text(text.replace("jpg 1", "jpg 2"))
    assert len({before, changed, load_folder(folder, 8).sha256}) == 3


def test_folders_and_images_may_be_links_to_another_place(folder):
    expected = load_folder(folder, 8).sha256
    elsewhere = folder.parent / "another disk"
    (folder / "images").rename(elsewhere)
    (folder / "images").symlink_to(elsewhere)
    assert load_folder(folder, 8).sha256 == expected
    for number, image in enumerate(sorted(elsewhere.rglob("*.jpg"))):  # as in a hub's cache
        image.rename(folder.parent / f"blob{number}")
        image.symlink_to(folder.parent / f"blob{number}")
    assert load_folder(folder, 8).sha256 == expected


def test_lists_may_begin_with_a_byte_order_mark(folder):
    expected = load_folder(folder, 8).sha256
    (folder / "classes.txt").write_bytes("\ufeffrobin\r\nwren\r\nrook\r\n".encode())
    for name in ("train800.txt", "val200.txt", "test.txt"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    task = load_folder(folder, 8)
    assert (task.sha256, task.class_names) == (expected, ("robin", "wren", "rook"))


def test_what_calls_an_accuracy_into_question_is_said(folder):
    assert load_folder(folder, 8).notes == ()
    shutil.copy(folder / "images/train800/000002.jpg", folder / "images/test/000001.jpg")
    with pytest.warns(DataWarning, match="birds: 1 picture of test is in train too, such as 000001.jpg"):
        task = load_folder(folder, 8)
    assert task.notes[:2] == ("1 picture of test is in train too, such as 000001.jpg", "1 picture is there under two labels")
    for name in ("train800.txt", "val200.txt", "test.txt"):
        text = (folder / name).read_text()
        for label in (2, 1, 0):
            text = text.replace(f".jpg {label}", f".jpg {label + 1}")
        (folder / name).write_text(text)
    with pytest.warns(DataWarning, match=r"1 of 4 classes have no picture: 0. Are labels counted from 1\?"):
        load_folder(folder, 8)


def test_pictures_with_transparent_parts_or_an_orientation_are_counted(folder):
    Image.new("RGBA", (4, 4)).save(folder / "images/test/000001.jpg", "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2), "red").save(folder / "images/test/000002.jpg", exif=exif)
    assert load_folder(folder, 8).notes == (
        "1 picture may have transparent parts, which are laid on white",
        "1 picture is turned by EXIF, which is not applied",
    )


def test_folder_split_too_large_for_memory_reads_the_same(folder):
    task, lazy = load_folder(folder, 12), load_folder(folder, 12, memory=3 * 3 * 12**2)
    assert isinstance(lazy.train.raw, Files)
    assert isinstance(lazy.test.raw, torch.Tensor)
    assert lazy.sha256 == task.sha256
    for index in (1, -1, [2, 0], torch.tensor([2, 0]), slice(0, 2)):
        for found, expected in zip(lazy.train[index], task.train[index], strict=True):
            assert torch.equal(found, expected)


def test_folder_class_names(folder):
    (folder / "classes.txt").write_text("robin\nwren\nrook\nowl\n")
    assert load_folder(folder, 8).class_names == ("robin", "wren", "rook", "owl")


def test_vtab_class_counts():
    assert set(CLASSES) == {*VTAB_1K, "cifar10", "colon_cells_4"}
    assert sum(CLASSES.values()) == 940 + 10 + 4
    assert (CLASSES["sun397"], CLASSES["patch_camelyon"], CLASSES["smallnorb_ele"], CLASSES["cifar10"]) == (
        397,
        2,
        9,
        10,
    )


def append(name: str, line: str):
    def damage(root: Path):
        with (root / name).open("a") as file:
            file.write(line + "\n")

    return damage


def decomposed(root: Path):
    (root / "images/test/000000.jpg").rename(root / "images/test/\u00e9.jpg")
    text = (root / "test.txt").read_text().replace("000000", "\u00e9")
    (root / "test.txt").write_text(text + "images/test/e\u0301.jpg 1\n", encoding="utf-8")


def relabel(root: Path):
    text = (root / "train800.txt").read_text()
    (root / "train800.txt").write_text(text.replace("000001.jpg 1", "000001.jpg 20240131"))


def truncate(root: Path):
    file = root / "images/val200/000001.jpg"
    file.write_bytes(file.read_bytes()[:-60])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: root.rename(root.parent / "fish"), r"there is no folder .*birds; .*GLORA_DATA_DIR"),
        (lambda root: (root / "val200.txt").unlink(), r"val200\.txt is missing: .*train800\.txt, val200\.txt, test\.txt"),
        (lambda root: (root / "test.txt").write_text("\n \n"), r"test\.txt is empty: expected lines such as"),
        (lambda root: (root / "test.txt").write_bytes(b"\xff\xfe"), r"test\.txt: cannot be read as UTF-8"),
        (append("test.txt", "images/test/000000.jpg"), r"test\.txt, line 4: expected a path, a space and a label"),
        (append("test.txt", "images/test/000000.jpg,1"), r"test\.txt, line 4: .*found 'images/test/000000\.jpg,1'"),
        (append("test.txt", "images/test/000000.jpg 1.0"), r"test\.txt, line 4: expected a path"),
        (append("test.txt", "images/test/000000.jpg -1"), r"test\.txt, line 4: expected a path"),
        (append("test.txt", "images/test/000009.jpg 1"), r"test\.txt, line 4: there is no image 'images/test/000009"),
        (append("test.txt", "images/test 1"), r"test\.txt, line 4: there is no image 'images/test'"),
        (append("test.txt", "../birds2/a.jpg 1"), r"test\.txt, line 4: the path '\.\./birds2/a\.jpg' leaves"),
        (append("test.txt", "/etc/hostname 1"), r"test\.txt, line 4: the path '/etc/hostname' leaves"),
        (append("test.txt", "images/../../birds/a.jpg 1"), r"test\.txt, line 4: the path .* leaves"),
        (append("test.txt", r"images\test\000000.jpg 1"), r"test\.txt, line 4: .*; the path has backslashes: write it with /"),
        (decomposed, r"test\.txt, line 4: .*; it is there under the same letters in another form of Unicode \(NFC\)"),
        (append("test.txt", "images/test/../../images/test/000001.jpg 1"), r"test\.txt, line 4: .*already listed in .*line 2"),
        (append("test.txt", "./images/test/000001.jpg 1"), r"test\.txt, line 4: .*already listed in .*line 2"),
        (relabel, r"train800\.txt, line 2: the label 20240131 would make 20,240,132 classes of 9 images"),
        (append("test.txt", "images/train800/000002.jpg 2"), r"test\.txt, line 4: .*already listed in .*train800\.txt, line 3"),
        (append("val200.txt", "images/train800/../train800/000000.jpg 0"), r"val200\.txt, line 3: .*already listed"),
        (append("train800.txt", "images/train800/000001.jpg 1"), r"train800\.txt, line 5: .*already listed"),
        (truncate, r"val200\.txt, line 2: cannot read the image .*000001\.jpg \(.*truncated"),
        (lambda root: (root / "images/test/000002.jpg").write_text("<html>"), r"test\.txt, line 3: cannot read the image"),
        (lambda root: (root / "images/test/000002.jpg").write_bytes(b""), r"test\.txt, line 3: cannot read the image"),
        (lambda root: (root / "classes.txt").write_text("robin\nwren\n"), r"train800\.txt, line 3: label 2 .* labels 0 to 1"),
        (lambda root: (root / "classes.txt").write_text(""), r"classes\.txt names 0 classes"),
    ],
)  # fmt: skip
def test_folder_errors(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        load_folder(folder, 8)


def test_known_folder_bounds_labels_and_class_names(folder):
    root = folder.rename(folder.parent / "patch_camelyon")
    with pytest.raises(DataError, match=r"train800\.txt, line 3: label 2 is out of range; patch_camelyon has labels 0 to 1"):
        load_folder(root, 8)
    (root / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"classes\.txt names 3 classes, and patch_camelyon has 2"):
        load_folder(root, 8)


def test_lazy_split_names_an_unreadable_image(folder):
    truncate(folder)
    task = load_folder(folder, 8, memory=0)
    with pytest.raises(DataError, match=r"cannot read the image .*000001\.jpg"):
        task.val[[0, 1]]


def test_cifar10_folder():
    root = paths.external_data() / "vtab-1k" / "cifar10"
    if "GLORA_DATA_DIR" not in os.environ or not root.is_dir():
        pytest.skip("GLORA_DATA_DIR has no vtab-1k/cifar10")
    task = load_task("cifar10", SMALL)
    assert [len(getattr(task, split)) for split in SPLITS] == [800, 200, 10_000]
    assert (task.group, task.stands_for, task.classes, task.class_names[3]) == ("natural", "cifar", 10, "cat")
    assert (task.test.labels.bincount() == 1000).all()
