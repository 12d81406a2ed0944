"""Few-shot tasks and domain shifts: names, draws, lists on disk, and every fault in them named."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glora_lib.data import (
    DataError,
    few_shot,
    hard,
    load_shift,
    load_task,
    packaged,
    shifts,
    shifts_of,
    tasks,
    tiny_imagenet,
    unavailable,
    unavailable_target,
)  # fmt: skip
from glora_lib.runs import paths
from glora_lib.runs.profiles import CPU

SMALL = replace(CPU, image_size=16)

# --- names and draws --------------------------------------------------------------------------------------------------


def test_names_say_task_shots_and_seed():
    assert few_shot.parse("mnist_5k-4shot-s0") == few_shot.FewShotName("mnist_5k", 4, 0)
    assert few_shot.parse("food-101-16shot-s2") == few_shot.FewShotName("food-101", 16, 2)
    assert few_shot.parse("mnist_5k") is None
    assert few_shot.parse("food-101") is None
    assert few_shot.parse("my-screenshots") is None


@pytest.mark.parametrize(
    "name", ["mnist_5k-4shot", "mnist_5k-0shot-s0", "mnist_5k-4shot-0", "mnist_5k-shot-s0", "mnist_5k-4shots-s0", "m-4shot-s0x"]
)
def test_malformed_names_show_the_form(name):
    with pytest.raises(DataError, match=f"malformed few-shot name '{name}': write TASK-Kshot-sSEED, such as mnist_5k-4shot-s0"):
        load_task(name, SMALL)


def test_subsets_have_k_images_a_class_and_are_nested():
    whole = load_task("gratings", SMALL)
    four, two = (load_task(f"gratings-{shots}shot-s1", SMALL) for shots in (4, 2))
    assert (four.name, four.classes, four.test.labels.tolist()) == ("gratings-4shot-s1", 4, whole.test.labels.tolist())
    assert four.train.labels.bincount().tolist() == [4] * 4
    images = {
        split: {image.numpy().tobytes() for image in t.train.raw} for split, t in (("4", four), ("2", two), ("all", whole))
    }
    assert images["2"] < images["4"] < images["all"]


def test_subsets_depend_on_the_seed_alone():
    first, again, other = (load_task(f"gratings-4shot-s{seed}", SMALL) for seed in (0, 0, 1))
    assert torch.equal(first.train.raw, again.train.raw)
    assert first.sha256 == again.sha256
    assert len({first.sha256, other.sha256, load_task("gratings", SMALL).sha256}) == 3
    assert load_task("gratings-4shot-s0", replace(SMALL, image_size=12)).sha256 == first.sha256


def test_subsets_need_enough_images():
    with pytest.raises(DataError, match="gratings has 16 training images of '0 degrees', not the 17 asked for"):
        load_task("gratings-17shot-s0", SMALL)
    with pytest.raises(DataError, match="unknown task 'nothing'"):
        load_task("nothing-4shot-s0", SMALL)


# --- lists ------------------------------------------------------------------------------------------------------------


def write(root: Path, name: str, rows: list[tuple[str, int]]):
    """Write a list and its images, 8 x 8 pixels of noise."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / name).write_text("".join(f"{place} {label}\n" for place, label in rows))
    for place, _ in rows:
        file = root / "images" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(place) + sum(map(ord, place))).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(file, "PNG")


@pytest.fixture
def birds(tmp_path) -> Path:
    """A set of three classes with 1-shot and 2-shot lists; one name has a blank, as in Oxford's and Stanford's sets."""
    root = tmp_path / "birds"
    for shots in (1, 2):
        rows = [(f"train/a {label}_{index}.png", label) for label in range(3) for index in range(shots)]
        write(root, f"train_meta.list.num_shot_{shots}.seed_0", rows)
    write(root, "val_meta.list", [(f"val/{label}.png", label) for label in range(3)])
    write(root, "test_meta.list", [(f"test/{index}.png", index % 3) for index in range(7)])
    return root


def test_lists_are_read(birds):
    task = few_shot.load_lists(birds, 2, 0, 8)
    assert (task.name, task.class_names) == ("birds-2shot-s0", ("0", "1", "2"))
    assert task.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [len(task.val), len(task.test)] == [3, 7]
    with Image.open(birds / "images/train/a 1_0.png") as image:
        assert np.array_equal(task.train.raw[2].permute(1, 2, 0), np.asarray(image))
    assert few_shot.load_lists(birds, 1, 0, 8).sha256 != task.sha256


def test_names_may_be_relative_to_the_sets_folder(birds):
    for part in ("train", "val", "test"):  # as in stanford_cars
        (birds / "images" / part).rename(birds / part)
    assert len(few_shot.load_lists(birds, 1, 0, 8).test) == 7


def test_names_may_be_relative_to_train_and_val(birds):
    (birds / "images").rename(birds / "val")  # as in imagenet, whose lists name images of both folders
    (birds / "val/train").rename(birds / "kept")
    (birds / "train").mkdir()
    (birds / "kept").rename(birds / "train/train")
    assert len(few_shot.load_lists(birds, 1, 0, 8).train) == 3


def test_lists_of_some_classes_number_them_anew(birds):
    (birds / "classes.txt").write_text("n1\trobin, Erithacus\nn2\twren\nn3\trook\n")
    assert few_shot.load_lists(birds, 1, 0, 8).class_names == ("robin", "wren", "rook")
    task = few_shot.load_lists(birds, 2, 0, 8, wnids=("n3", "n1"), name="some")
    assert (task.name, task.class_names) == ("some-2shot-s0", ("rook", "robin"))
    assert task.train.labels.tolist() == [1, 1, 0, 0]
    assert task.test.labels.tolist() == [1, 0, 1, 0, 1]
    with pytest.raises(DataError, match=r"classes\.txt lacks the classes n9"):
        few_shot.load_lists(birds, 1, 0, 8, wnids=("n9",))


def rewrite(name: str, old: str, new: str):
    def damage(root: Path):
        file = root / "annotations" / name
        file.write_text(file.read_text().replace(old, new))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: root.rename(root.parent / "fish"), r"there is no folder .*birds.annotations; .*GLORA_DATA_DIR"),
        (
            lambda root: (root / "annotations/train_meta.list.num_shot_2.seed_0").unlink(),
            r"num_shot_2\.seed_0 is missing; lists that are there: num_shot_1\.seed_0",
        ),
        (lambda root: (root / "annotations/val_meta.list").unlink(), r"val_meta\.list is missing"),
        (rewrite("test_meta.list", "test/6.png 0", "test/6.png"), r"test_meta\.list, line 7: expected a path, a space"),
        (rewrite("test_meta.list", "test/6.png 0", "test/9.png 0"), r"test_meta\.list, line 7: there is no image 'test/9"),
        (rewrite("test_meta.list", "test/6.png 0", "train/a 0_0.png 0"), r"line 7: .*already listed in .*num_shot_2"),
        (rewrite("test_meta.list", "test/6.png 0", "../../x.png 0"), r"line 7: the path '\.\./\.\./x\.png' leaves"),
        (rewrite("train_meta.list.num_shot_2.seed_0", "a 0_1.png 0", "a 0_1.png 1"), r"should list 2 images of each class"),
        (lambda root: (root / "classes.txt").write_text("a\nb\n"), r"line 5: label 2 is out of range; birds has labels 0 to 1"),
    ],
)  # fmt: skip
def test_list_errors(birds, damage, message):
    damage(birds)
    with pytest.raises(DataError, match=message):
        few_shot.load_lists(birds, 2, 0, 8)


def test_known_sets_are_found_by_name(birds, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(birds.parent))
    monkeypatch.setitem(few_shot.CLASSES, "oxford_pets", 3)
    assert "there is no folder" in unavailable("oxford_pets-2shot-s0", SMALL)
    birds.rename(birds.parent / "oxford_pets")
    assert unavailable("oxford_pets-2shot-s0", SMALL) == ""
    assert len(load_task("oxford_pets-2shot-s0", SMALL).train) == 6
    with pytest.raises(DataError, match="'oxford_pets' has few-shot lists only; .*: oxford_pets-16shot-s0"):
        load_task("oxford_pets", SMALL)


# --- what may be absent -----------------------------------------------------------------------------------------------


def test_what_is_unavailable_is_said_with_the_mend(tmp_path, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tasks.debian, "SHARE", tmp_path)
    assert unavailable("mnist_5k", "cpu") == unavailable("clevr_count-1shot-s0", "cpu") == ""
    packed = tmp_path / "arrays" / "clevr_count.npz"  # of the generated task, which this profile does not read
    packed.parent.mkdir()
    packed.touch()
    assert "vtab-1k" in unavailable("clevr_count", "paper")
    assert "vtab-1k" in unavailable("cifar10", "cpu")
    assert "there is no folder" in unavailable("pacs", "gpu")
    with pytest.raises(DataError, match="no folder"):
        load_task("pacs", "gpu")
    assert "tiny-imagenet" in unavailable("tiny_imagenet_food-4shot-s0", "cpu")
    for name, package in (("fashion_mnist", "dataset-fashion-mnist"), ("tuxpaint_9-2shot-s0", "tuxpaint-stamps-default")):
        assert f"is not installed: apt-get install --no-install-recommends {package}" in unavailable(name, "cpu")
        with pytest.raises(DataError, match=f"apt-get install .*{package}"):
            load_task(name, SMALL)
    with pytest.raises(DataError, match="unknown task 'nothing'"):
        unavailable("nothing", "cpu")


# --- Tiny-ImageNet ----------------------------------------------------------------------------------------------------


def test_groups_of_tiny_imagenet_are_disjoint():
    wnids = [wnid for group in tiny_imagenet.GROUPS.values() for wnid in group]
    assert len(set(wnids)) == len(wnids)
    assert [len(group) for group in tiny_imagenet.GROUPS.values()] == [16, 15, 9, 17, 16]


def test_tiny_imagenet_folder():
    if "GLORA_DATA_DIR" not in os.environ or not (paths.external_data() / "tiny-imagenet").is_dir():
        pytest.skip("GLORA_DATA_DIR has no tiny-imagenet")
    task = load_task("tiny_imagenet_pets-4shot-s1", SMALL)
    assert (task.classes, len(task.train), len(task.val), len(task.test)) == (9, 36, 36, 450)
    assert (task.class_names[0], task.class_names[-1], task.stands_for) == ("Chihuahua", "Egyptian cat", "oxford_pets")
    drawn = load_shift("tiny_imagenet_pets-4shot-s1", "edges", SMALL)
    assert drawn.test.labels.tolist() == task.test.labels.tolist()
    assert drawn.test.raw.float().mean() > task.test.raw.float().mean()  # white paper
    assert torch.equal(drawn.train.raw, task.train.raw)
    flat = load_shift("tiny_imagenet_pets-4shot-s1", "flat", SMALL)
    assert flat.test.labels.tolist() == task.test.labels.tolist()
    assert len({task.sha256, drawn.sha256, flat.sha256}) == 3


# --- shifts -----------------------------------------------------------------------------------------------------------


def test_shifts_of_a_source():
    assert [shift.target for shift in shifts_of("mnist_5k")] == ["mnist_m", "optdigits"]
    assert shifts_of("mnist_5k-16shot-s0") == shifts_of("mnist_5k")
    assert [shift.target for shift in shifts_of("tiny_imagenet_food-1shot-s0")] == ["edges", "hard", "flat"]
    assert shifts_of("landcover_10") == ()
    reported = {"v2", "sketch", "a", "r", ""}  # the targets of the paper's Table 3, or none of them
    assert {shift.stands_for for targets in shifts.SHIFTS.values() for shift in targets} <= reported


def test_shifted_tasks_keep_the_source_and_change_the_test():
    source = load_task("mnist_5k", SMALL)
    for target, size in (("mnist_m", 2000), ("optdigits", 1797)):
        shifted = load_shift("mnist_5k", target, SMALL)
        assert (shifted.name, shifted.class_names, len(shifted.test)) == (f"mnist_5k--{target}", source.class_names, size)
        assert torch.equal(shifted.train.raw, source.train.raw)
        assert shifted.test.labels.bincount(minlength=10).min() >= 174
        assert shifted.sha256 == load_shift("mnist_5k", target, replace(SMALL, image_size=8)).sha256
    assert len({source.sha256, *(load_shift("mnist_5k", t, SMALL).sha256 for t in ("mnist_m", "optdigits"))}) == 3


def test_the_negative_of_the_smoke_task_is_its_test_images_inverted():
    plain, negative = load_task("gratings", SMALL), load_shift("gratings", "negative", SMALL)
    assert torch.equal(negative.test.raw, 255 - plain.test.raw)


def test_an_absent_target_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tasks.debian, "SHARE", tmp_path)
    assert "openclipart-png" in unavailable_target("openclipart_9")
    assert "imagenet-a" in unavailable_target("imagenet-a")
    assert unavailable_target("optdigits") == unavailable_target("edges") == ""


def test_unknown_targets_list_the_valid_ones():
    with pytest.raises(DataError, match="'mnist_5k' has no shift 'svhn'; valid targets: mnist_m, optdigits"):
        load_shift("mnist_5k", "svhn", SMALL)
    with pytest.raises(DataError, match="'landcover_10' has no shift 'edges'; valid targets: none"):
        load_shift("landcover_10", "edges", SMALL)


def test_optdigits_are_light_on_dark():
    images, labels = shifts.optdigits()
    assert (images.shape, images.min(), images.max()) == ((1797, 8, 8), 0, 255)
    assert labels[:5].tolist() == [0, 1, 2, 3, 4]
    assert images[:, [0, -1]].mean() < images[:, 2:6].mean()


def test_edges_of_a_square():
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[5:15, 5:15] = 200
    drawn = np.asarray(shifts.edges(Image.fromarray(pixels)))
    assert (drawn[8:12, 8:12] == 255).all()  # nothing inside
    assert (drawn[0] == 255).all()
    assert (drawn[10, 4] < 30).all()  # black at the border
    assert (np.asarray(shifts.edges(Image.new("RGB", (9, 9), "red"))) == 255).all()


def test_flat_leaves_eight_colours_and_no_speckle():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert len(np.unique(np.asarray(shifts.flat(Image.fromarray(pixels))).reshape(-1, 3), axis=0)) <= 8
    plain = np.full((32, 32, 3), 90, np.uint8)
    plain[10, 10] = 255
    assert (np.asarray(shifts.flat(Image.fromarray(plain))) == 90).all()


def test_hard_images_are_those_that_the_convnet_gets_wrong(birds, monkeypatch, tmp_path):
    """scikit-learn's photographs of a roof and of a flower, each once with the other's label; the ConvNet tells them apart."""
    monkeypatch.setenv("GLORA_DATA_DIR", str(birds.parent))
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(tiny_imagenet, "GROUPS", {"food": ("n03877845", "n11939491")})
    root = birds.rename(birds.parent / "tiny-imagenet")
    (root / "classes.txt").write_text("".join(f"n{i:08}\n" for i in range(198)) + "n11939491\tdaisy\nn03877845\tpalace\n")
    write(root, "train_meta.list.num_shot_1.seed_0", [("t0.png", 199), ("t1.png", 198)])
    write(root, "val_meta.list", [("v0.png", 199), ("v1.png", 198)])
    write(root, "test_meta.list", [("roof.png", 199), ("flower.png", 198), ("roof again.png", 198), ("flower again.png", 199)])
    for name, photo in (("roof", packaged.CHINA), ("flower", packaged.FLOWER)):
        image = Image.open(io.BytesIO(photo.read()))
        image.crop((107, 0, 534, 427)).save(root / f"images/{name}.png")
        image.crop((100, 0, 527, 427)).save(root / f"images/{name} again.png")
    source = "tiny_imagenet_food-1shot-s0"
    whole, found = load_task(source, SMALL), load_shift(source, "hard", SMALL)
    assert (whole.test.labels.tolist(), found.test.labels.tolist()) == ([0, 1, 1, 0], [1, 0])
    assert torch.equal(found.test.raw, whole.test.raw[2:])
    monkeypatch.setattr(hard, "convnet", None)  # the second time from the cache
    assert load_shift(source, "hard", SMALL).sha256 == found.sha256
    with pytest.raises(DataError, match="not among ImageNet's 1,000 classes: n00000000"):
        hard.wrong(whole.test, ("n00000000",))


def test_imagenet_variants_have_the_sources_classes(birds, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(birds.parent))
    monkeypatch.setitem(few_shot.CLASSES, "imagenet", 3)
    birds.rename(birds.parent / "imagenet")
    with pytest.raises(DataError, match=r"there is no folder .*imagenet-r"):
        load_shift("imagenet-2shot-s0", "imagenet-r", SMALL)
    write(birds.parent / "imagenet-r", "test_meta.list", [("n1/a.png", 0), ("n3/b.png", 2)])
    task = load_shift("imagenet-2shot-s0", "imagenet-r", SMALL)
    assert (len(task.train), task.test.labels.tolist(), task.classes) == (6, [0, 2], 3)
    write(birds.parent / "imagenet-r", "test_meta.list", [("n1/a.png", 3)])
    with pytest.raises(DataError, match="label 3 is out of range; imagenet-r has labels 0 to 2"):
        load_shift("imagenet-2shot-s0", "imagenet-r", SMALL)
