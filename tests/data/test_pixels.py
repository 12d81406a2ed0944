"""What a picture's pixels mean, whatever kind of picture it is."""

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from glora_lib.data.folder import decode
from glora_lib.data.pixels import rgb, transparent, turned
from glora_lib.data.task import DataError, resize

RAMP = np.linspace(0, 1, 256)


def written(path, image: Image.Image, **options) -> np.ndarray:
    """Save an image, decode it again, and return its first row's grey values."""
    image.save(path, **options)
    found = np.asarray(decode(path))
    assert found.dtype == np.uint8
    assert (found == found[..., :1]).all()
    return found[0, :, 0]


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, name):
    values = np.round(65535 * RAMP).astype(np.uint16)[None]
    grey = written(tmp_path / name, Image.fromarray(values))
    assert grey.tolist() == list(range(256))


def test_big_endian_and_twelve_bits(tmp_path):
    values = np.round(65535 * RAMP).astype(">u2")[None]
    image = Image.frombytes("I;16B", (256, 1), values.tobytes())
    assert np.asarray(rgb(image))[0, :, 0].tolist() == list(range(256))
    twelve = Image.fromarray(np.round(4095 * RAMP).astype(np.uint16)[None])
    twelve.save(tmp_path / "twelve.tif")
    with Image.open(tmp_path / "twelve.tif") as image:
        image.tag_v2[258] = (12,)
        assert np.asarray(rgb(image))[0, :, 0].tolist() == list(range(256))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_a_black_and_a_white_are_refused_with_the_file_s_name(tmp_path, kind):
    Image.fromarray(np.ones((2, 2), kind)).save(tmp_path / "depth.tif")
    with pytest.raises(DataError, match=r"cannot read the image .*depth.tif \(its pixels are (32-bit|floating)"):
        decode(tmp_path / "depth.tif")
    with pytest.raises(ValueError, match="which do not say what black and white are"):
        resize([np.ones((2, 2), kind)], 2)


def test_arrays_of_sixteen_bits_are_scaled_too():
    assert resize([np.full((2, 2), 32896, np.uint16)], 2).unique().tolist() == [128]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_laid_on_white(tmp_path, mode):
    """A black stroke on hidden black, and half of a grey one."""
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 255, 0, 128
    pixels[0, 2, :3] = 100
    image = Image.fromarray(pixels).convert(mode) if mode != "P" else Image.fromarray(pixels).quantize(8)
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert transparent(opened)
    found = np.asarray(decode(tmp_path / "a.png"))[0, :, 0].tolist()
    assert found[:2] == [0, 255]
    assert abs(found[2] - round(100 * 128 / 255 + 255 * 127 / 255)) <= 2


def test_a_transparent_value_of_sixteen_bits(tmp_path):
    image = Image.fromarray(np.array([[0, 65535, 30000]], np.uint16))
    image.save(tmp_path / "a.png", transparency=0)
    with Image.open(tmp_path / "a.png") as opened:
        if not transparent(opened):
            pytest.skip("this Pillow does not write the chunk for 16 bits")
    assert np.asarray(decode(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 255, 117]


def test_what_needs_nothing_stays_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (5, 7, 3)):
        image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        image.save(tmp_path / "a.png")
        assert np.array_equal(np.asarray(decode(tmp_path / "a.png")), np.asarray(image.convert("RGB")))
    opaque = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).convert("RGBA")
    assert np.array_equal(np.asarray(rgb(opaque)), np.asarray(opaque.convert("RGB")))


def test_whatever_a_decoder_raises_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def fail(self):
        raise NotImplementedError("Failed to decode")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(DataError, match=r"cannot read the image .*a.png \(Failed to decode\)"):
        decode(tmp_path / "a.png")


def test_orientation_is_seen_and_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        assert turned(image)
    assert decode(tmp_path / "a.jpg").size == (4, 2)
