"""Features, their t-SNE, and the numbers beside it."""

import numpy as np
import pytest

from glora_lib.backbones import load_backbone
from glora_lib.data import load_task
from glora_lib.measures import embedding


@pytest.fixture
def blobs():
    """Three classes of 30 points in 8 dimensions, far apart."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30)
    return (10 * np.eye(8)[labels] + rng.normal(size=(90, 8))).astype(np.float32), labels


def test_features_have_length_one_and_their_labels():
    task = load_task("gratings", "smoke")
    rows, labels = embedding.of(load_backbone("test_vit", classes=4, image_size=32, weights="random"), task.test, 20)
    assert rows.shape == (20, 64)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(20), abs=1e-6)
    assert labels.tolist() == task.test.labels[:20].tolist()


def test_separation_tells_apart_from_mixed(blobs):
    rows, labels = blobs
    apart = embedding.separation(blobs, blobs)
    mixed = embedding.separation(blobs, (rows, np.random.default_rng(1).permutation(labels)))
    assert apart["knn"] == 1
    assert apart["silhouette"] > 0.5
    assert mixed["knn"] < 0.6
    assert mixed["silhouette"] < 0.1


def test_a_picture_keeps_neighbours_and_its_seed_fixes_it(blobs):
    rows, labels = blobs
    picture = embedding.tsne(rows, perplexity=10, seed=0)
    assert picture.shape == (90, 2)
    assert np.array_equal(picture, embedding.tsne(rows, perplexity=10, seed=0))
    assert embedding.picture_separation(picture, labels) > 0.95
    assert embedding.picture_separation(picture, np.random.default_rng(1).permutation(labels)) < 0.6
