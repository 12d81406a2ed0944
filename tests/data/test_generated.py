"""Generated tasks: VTAB's labels, distinct images, the same ones every time."""

from functools import partial

import numpy as np
import pytest

from glora_lib.data import clevr, clevr_scene, dsprites, load_task
from glora_lib.runs import paths

COUNT = partial(clevr.render_split, clevr.render_count, 8)
DIST = partial(clevr.render_split, clevr.render_dist, 6)

# --- CLEVR ------------------------------------------------------------------------------------------------------------


def test_clevr_images_are_their_own_and_repeat():
    images, labels = COUNT("train", 9)
    assert images.shape == (9, 64, 64, 3)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    again, _ = COUNT("train", 3)
    other, _ = COUNT("test", 3)
    assert np.array_equal(images[:3], again)
    assert not any((a == b).all() for a in images for b in other)
    assert images.std((1, 2, 3)).min() > 10  # no empty picture


@pytest.mark.parametrize("count", [3, 10])
def test_clevr_shows_each_object(count):
    solids, _, _, _, normal, which = clevr_scene.scene(np.random.default_rng(1), count, 64)
    assert len(solids) == count
    assert np.bincount(which[which >= 0], minlength=count).min() >= clevr_scene.VISIBLE
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("shape", clevr_scene.SHAPES)
def test_clevr_hits_lie_on_the_surface(shape):
    solid = clevr_scene.Solid(shape, 0.7, 0.4, -0.3, 0.5, 0, False)
    camera, rays = clevr_scene.view(np.random.default_rng(0), 64)
    hit, distance, normal = clevr_scene.intersect(solid, camera, rays)
    x, y, z = np.abs(solid.to_local(camera + distance[:, None] * rays[hit] - (0.4, -0.3, 0.7))).T
    radius = {
        "sphere": np.sqrt(x**2 + y**2 + z**2),
        "cube": np.maximum(np.maximum(x, y), z),
        "cylinder": np.maximum(np.hypot(x, y), z),
    }[shape]
    assert len(hit) > 50
    np.testing.assert_allclose(radius, 1, atol=1e-6)
    assert (clevr_scene.dot(normal, rays[hit]) < 1e-9).all()  # the visible side


def test_clevr_cache_is_read_and_a_damaged_one_rebuilt(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    sizes = {"train": 2, "val": 1, "test": 1}
    cached = partial(clevr.cached, "clevr_count", clevr.render_count, 8)
    first = cached(sizes)
    (file,) = paths.CACHE.iterdir()
    content = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(clevr, "render_split", lambda *_: pytest.fail("rendered although the cache was there"))
        second = cached(sizes)
    for damage in (b"", b"not a zip file", content[:-40], content[:200] + b"\0" * 50 + content[250:]):
        file.write_bytes(damage)
        third = cached(sizes)
        for split in sizes:
            assert np.array_equal(first[split][0], second[split][0])
            assert np.array_equal(first[split][0], third[split][0])
    assert [path.name for path in paths.CACHE.iterdir()] == [file.name]
    assert cached({**sizes, "val": 2})["val"][0].shape[0] == 2  # another key


@pytest.mark.parametrize(
    ("depth", "label"), [(7.9, 0), (8.0, 0), (8.1, 1), (8.5, 1), (8.6, 2), (9.4, 3), (9.5, 3), (9.6, 4), (10.1, 5), (50.0, 5)]
)
def test_clevr_distance_label_is_vtabs(depth, label):
    thresholds = np.array([0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0])
    assert np.max(np.where((thresholds - depth) < 0)) == label  # the last threshold below, as VTAB's preprocessing finds it
    assert clevr.distance_label(depth) == label


def test_clevr_depth_is_along_the_cameras_axis():
    camera = clevr_scene.CAMERA
    forward = clevr_scene.unit(clevr_scene.TARGET - camera)
    right = clevr_scene.unit(np.cross(forward, (0, 0, 1)))
    centres = (camera + 9 * forward, camera + 11 * forward, camera + 9.5 * forward + 3 * right)  # 9.96 away, but 9.5 deep
    solids = [clevr_scene.Solid("sphere", float(z), float(x), float(y), 0.0, 0, False) for x, y, z in centres]
    assert clevr_scene.nearest_depth(solids, camera) == pytest.approx(9)
    assert clevr_scene.nearest_depth(solids[1:], camera) == pytest.approx(9.5)


def test_clevr_dist_images_have_their_label():
    images, labels = DIST("val", 7)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert np.array_equal(images[:2], DIST("val", 2)[0])
    for index, label in enumerate(labels):

        def has_label(solids, camera, label=label):
            return clevr.distance_label(clevr_scene.nearest_depth(solids, camera)) == label

        solids, camera, *_ = clevr_scene.scene(np.random.default_rng((1, index, 1)), None, 128, has_label)
        assert 3 <= len(solids) <= 10
        assert has_label(solids, camera)


# --- dSprites ---------------------------------------------------------------------------------------------------------


def test_dsprites_labels_are_vtabs_bins():
    positions = [dsprites.label_of(index, 32) for index in range(32)]
    orientations = [dsprites.label_of(index, 40) for index in range(40)]
    assert positions == [index // 2 for index in range(32)]
    assert orientations == [int(np.floor(index / (40 / 16))) for index in range(40)]
    assert np.bincount(orientations).tolist() == [3, 2] * 8


@pytest.mark.parametrize("shape", range(3))
def test_dsprites_turn_and_move(shape):
    upright = dsprites.draw(shape, 5, 0, 0, 0)
    assert np.array_equal(upright, dsprites.draw(shape, 5, 39, 0, 0))  # 2 pi is a whole turn
    moved = dsprites.draw(shape, 5, 0, 31, 0)
    assert np.array_equal(moved, np.roll(upright, 32, axis=1))  # x is the column, from 16 to 48
    assert np.array_equal(dsprites.draw(shape, 5, 0, 0, 31), np.roll(upright, 32, axis=0))
    assert upright.sum() > 3 * dsprites.draw(shape, 0, 0, 0, 0).sum()


def test_dsprites_never_touch_the_border():
    for shape in range(3):
        for orientation in range(40):
            for place in (0, 31):
                image = dsprites.draw(shape, 5, orientation, place, place)
                assert not image[[0, -1]].any()
                assert not image[:, [0, -1]].any()


@pytest.mark.parametrize("name", ["dsprites_loc", "dsprites_ori"])
def test_dsprites_splits(name):
    task = load_task(name, "cpu")
    assert (task.group, task.stands_for, task.classes) == ("structured", name, 16)
    assert [len(split) for split in (task.train, task.val, task.test)] == [800, 200, 2000]
    splits = dsprites.splits({"dsprites_loc": "x", "dsprites_ori": "orientation"}[name])
    images = np.concatenate([images for images, _ in splits.values()])
    assert len({image.tobytes() for image in images}) == len(images) == 3000
    for _, labels in splits.values():
        assert np.ptp(np.bincount(labels, minlength=16)) <= 1


def test_dsprites_location_is_where_the_shape_is():
    images, labels = dsprites.splits("x")["val"]
    columns = np.arange(64) + 0.5
    centre = (images / 255 * columns).sum((1, 2)) / (images / 255).sum((1, 2))
    assert np.abs(centre - (16 + (2 * labels + 0.5) / 31 * 32)).max() < 1  # half of the 2 pixels of a bin, and rounding
