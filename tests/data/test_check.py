"""The check of a user's folder, raw-pixel baselines, and Debian's packages in small."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.exceptions import ConvergenceWarning

from glora_lib.data import DataError, baselines, check, debian, load_task
from glora_lib.data.baselines import raw_pixels
from glora_lib.data.folder import CLASSES
from glora_lib.runs.profile import VTAB_1K

# --- check ------------------------------------------------------------------------------------------------------------


def states(report) -> dict[str, str]:
    return {finding.place: finding.state for finding in report.findings}


def detail(report, place: str) -> str:
    return next(finding.detail for finding in report.findings if finding.place == place)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """KITTI with 4 / 2 / 5 images, as many as this test lets VTAB's have, and a 2-class set with one few-shot list."""
    monkeypatch.setattr("glora_lib.data.inventory.SIZES", {"train": 4, "val": 2})
    monkeypatch.setattr("glora_lib.data.inventory.TEST", {"kitti": 5})
    monkeypatch.setattr("glora_lib.data.inventory.FEW_SHOT", {"food-101": 2, "oxford_pets": 2})
    monkeypatch.setattr("glora_lib.data.inventory.VARIANTS", {"imagenet-a": 1})
    for split, size in (("train800", 4), ("val200", 2), ("test", 5)):
        write(tmp_path / "vtab-1k/kitti", f"{split}.txt", [(f"images/{split}/{i:06d}.jpg", i % 4) for i in range(size)])
    for name, rows in (("val_meta.list", 2), ("test_meta.list", 3), ("train_meta.list.num_shot_1.seed_0", 2)):
        write(
            tmp_path / "food-101",
            f"annotations/{name}",
            [(f"images/{name[:4]}/{i}.jpg", i % 2) for i in range(rows)],
            "images/",
        )
    return tmp_path


def write(root: Path, name: str, rows: list[tuple[str, int]], cut: str = ""):
    """Write a list, with `cut` removed from the paths, and its images."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{place.removeprefix(cut)} {label}\n" for place, label in rows))
    for place, _ in rows:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / place)


@pytest.mark.parametrize(("place", "deeper"), [("vtab-1k/kitti", "vtab-1k/vtab-1k/kitti"), ("food-101", "sets/food-101")])
def test_a_set_that_lies_one_folder_too_deep_is_found_out(root, place, deeper):
    (root / place).rename(root / "aside")
    (root / deeper).parent.mkdir(parents=True)
    (root / "aside").rename(root / deeper)
    report = check(root)
    assert states(report)[place] == "missing"
    assert detail(report, place) == f"no folder here, but {root / deeper}: move it up"


@pytest.mark.parametrize(("name", "classes"), [("colon_cells_4", "4"), ("birds", "3")])
def test_a_task_that_is_not_vtab_s_may_have_any_size(root, name, classes):
    """One that is known by name, and one that is not."""
    for split, size in (("train800", 3), ("val200", 2), ("test", 1)):
        write(root / "vtab-1k" / name, f"{split}.txt", [(f"images/{split}/{i}.jpg", i % 3) for i in range(size)])
    report = check(root)
    assert states(report)[f"vtab-1k/{name}"] == "ok"
    assert detail(report, f"vtab-1k/{name}") == f"train 3, val 2, test 1; 3 of {classes} classes occur"


def test_report_says_what_is_there_and_what_is_missing(root):
    report = check(root)
    assert set(states(report)) == {
        *(f"vtab-1k/{name}" for name in CLASSES),
        "food-101",
        "oxford_pets",
        "imagenet-a",
        "ViT-B_16.npz",
    }
    assert [place for place, state in states(report).items() if state == "ok"] == ["vtab-1k/kitti", "food-101"]
    assert detail(report, "vtab-1k/kitti") == "train 4, val 2, test 5; 4 of 4 classes occur"
    assert detail(report, "food-101").startswith(
        "1 training lists; val 2, test 3; 2 of 2 classes occur; not there: 1-shot seed 1"
    )
    assert str(report).splitlines()[0] == f"{root}: 2 ok, {report.count('missing')} missing, 0 wrong"
    assert report.count("missing") == len(CLASSES) - 1 + 3


def test_report_of_an_empty_folder_misses_everything(tmp_path):
    assert set(states(check(tmp_path / "nowhere")).values()) == {"missing"}
    assert {f"vtab-1k/{name}" for name in VTAB_1K} <= set(states(check(tmp_path)))


def lose_a_line(root: Path):
    file = root / "vtab-1k/kitti/test.txt"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))


@pytest.mark.parametrize(
    ("place", "damage", "message"),
    [
        ("vtab-1k/kitti", lose_a_line, "test.txt has 4 images, VTAB's has 5"),
        ("vtab-1k/kitti", lambda root: (root / "vtab-1k/kitti/val200.txt").unlink(), "val200.txt is missing"),
        ("vtab-1k/kitti", lambda root: (root / "vtab-1k/kitti/images/test/000002.jpg").unlink(), "test.txt, line 3: there"),
        ("vtab-1k/kitti", lambda root: (root / "vtab-1k/kitti/classes.txt").write_text("near\nfar\n"), "names 2 classes"),
        ("vtab-1k/kitti", lambda root: (root / "vtab-1k/kitti/images/val200/000000.jpg").write_text("x"), "cannot read the"),
        ("food-101", lambda root: (root / "food-101/annotations/test_meta.list").unlink(), "test_meta.list is missing"),
        (
            "food-101",
            lambda root: (root / "food-101/annotations/train_meta.list.num_shot_1.seed_0").write_text("trai/0.jpg 0\n"),
            "should list 1 images of each class; it does not for label 1",
        ),
        (
            "imagenet-a",
            lambda root: write(root / "imagenet-a", "annotations/test_meta.list", [("a.jpg", 0), ("b.jpg", 1)]),
            "has 2 images, not 1",
        ),
    ],
)  # fmt: skip
def test_report_names_what_is_wrong(root, place, damage, message):
    damage(root)
    report = check(root)
    assert states(report)[place] == "wrong"
    assert message in detail(report, place)
    assert f"{place}" in str(report)


def test_default_is_the_data_folder(root, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(root))
    assert check().root == root
    assert check().findings == check(root).findings


# --- raw pixels -------------------------------------------------------------------------------------------------------


def test_raw_pixels_of_gratings():
    """Neighbours see the angle; a linear rule cannot, because the phase is random."""
    found = raw_pixels(load_task("gratings", "smoke"))
    assert found["chance"] == 0.25
    assert found["nearest neighbours"] > 0.9
    assert found["nearest centroid"] < found["logistic regression"] < 0.7


def test_a_regression_that_does_not_converge_gives_no_number(monkeypatch):
    monkeypatch.setattr(baselines, "STEPS", 1)
    with pytest.raises(ConvergenceWarning):
        raw_pixels(load_task("gratings", "smoke"))


# --- Debian -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def share(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(debian, "SHARE", tmp_path)
    return tmp_path


def test_fashion_mnist_from_idx_files(share):
    root, rng = share / "datasets/fashion-mnist", np.random.default_rng(0)
    root.mkdir(parents=True)
    for part, count in (("train", 1100), ("t10k", 2100)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (root / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
        if part == "t10k":
            expected = images
    task = debian.load_fashion_mnist(28)
    assert [len(split) for split in (task.train, task.val, task.test)] == [800, 200, 2000]
    assert (task.val.labels.bincount() == 20).all()
    assert np.array_equal(task.test.raw[:, 0], expected[:2000])
    train, val = ({image.numpy().tobytes() for image in split.raw} for split in (task.train, task.val))
    assert not train & val
    (root / "t10k-images-idx3-ubyte.gz").write_bytes(b"damaged")
    with pytest.raises(
        DataError, match=r"t10k-images-idx3-ubyte\.gz cannot be read as IDX .*--reinstall dataset-fashion-mnist"
    ):
        debian.load_fashion_mnist(28)


def test_drawings_are_whole_distinct_and_dealt(share):
    rng = np.random.default_rng(0)
    for tux, clip in debian.DRAWN.values():
        for root, places in (("tuxpaint/stamps", tux), ("openclipart/png", clip)):
            for place in places:
                folder = share / root / place / "below"
                folder.mkdir(parents=True)
                for index in range(10):
                    Image.fromarray(rng.integers(0, 256, (30, 90, 4), np.uint8), "RGBA").save(folder / f"{index}.png")
                (folder / "again.png").write_bytes((folder / "0.png").read_bytes())
                (folder / "broken.png").write_bytes(b"no picture")
    images, labels = debian.drawings("openclipart_9")
    assert images.shape[1:] == (64, 64, 3)
    assert np.bincount(labels).tolist() == [10 * len(clip) for _, clip in debian.DRAWN.values()]
    assert (images[:, :20] == 255).all()  # a stamp three times as wide as high lies in the middle
    task = debian.load_tuxpaint_9(16)
    assert (task.classes, len(task.train) + len(task.val) + len(task.test)) == (9, 110)
    assert min(split.labels.bincount(minlength=9).min() for split in (task.train, task.val, task.test)) >= 2
