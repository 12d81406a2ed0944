"""Domain shift: a model is trained on a source and tested, as it is, on targets that have the source's classes."""

import gzip
import hashlib
import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from glora_lib.data import debian, few_shot, hard, tasks, tiny_imagenet
from glora_lib.data.folder import Row, digest_of, images_of, read_list
from glora_lib.data.packaged import OPTDIGITS
from glora_lib.data.task import DataError, Images, Task, resize
from glora_lib.runs import paths
from glora_lib.runs.profile import Profile


@dataclass(frozen=True)
class Shift:
    """One target of a source."""

    target: str
    stands_for: str  # the target of the paper's Table 3 that it takes the place of
    what: str  # what changes


# by source, without "-Kshot-sSEED"; every group of Tiny-ImageNet has the targets of the whole
SHIFTS = {
    "gratings": (Shift("negative", "", "the test images' negative"),),
    "mnist_5k": (
        Shift("mnist_m", "r", "the same digits in colour over photographs: another rendering"),
        Shift("optdigits", "v2", "digits of other writers, collected and scaled down by others"),
    ),
    "tuxpaint_9": (Shift("openclipart_9", "r", "drawings instead of photographs"),),
    "tiny_imagenet": (
        Shift("edges", "sketch", "the test images' edges by a Sobel filter, dark on white"),
        Shift("hard", "a", "those test images that EfficientNet-Lite0 gets wrong"),
        Shift("flat", "r", "the test images as areas of eight flat colours, as in a poster"),
    ),
    "pacs": (
        Shift("art_painting", "r", "the same seven kinds of things in paintings instead of photographs"),
        Shift("cartoon", "r", "the same in cartoons"),
        Shift("sketch", "sketch", "the same in sketches"),
    ),
    "imagenet": (
        Shift("imagenetv2", "v2", "images collected again by the same procedure"),
        Shift("imagenet-sketch", "sketch", "drawings in black and white"),
        Shift("imagenet-a", "a", "photographs that a ConvNet gets wrong"),
        Shift("imagenet-r", "r", "art, cartoons, toys and other renditions"),
    ),
}


def shifts_of(source: str) -> tuple[Shift, ...]:
    """Return the shifts of a source, a name for `load_task`; () for one that has none."""
    wanted = few_shot.parse(source)
    base = wanted.task if wanted else source
    return SHIFTS.get("tiny_imagenet" if base.startswith("tiny_imagenet") else base, ())


def load_shift(source: str, target: str, profile: Profile | str) -> Task:
    """Return the source's task with the target's images as its test split; labels and classes are the source's.

    The task is named `<source>--<target>` and its `sha256` covers the source and the target. Raises `DataError` for
    a target that the source has not, and where files are missing.
    """
    if target not in (valid := [shift.target for shift in shifts_of(source)]):
        raise DataError(f"{source!r} has no shift {target!r}; valid targets: {', '.join(valid) or 'none'}")
    profile = tasks.of_name(profile)
    size, task = profile.image_size, tasks.load_task(source, profile)
    if target == "negative":
        test, digest = Images(255 - task.test.raw[:], task.test.labels), "255 - x"
    elif target == "mnist_m":
        shifted = tasks.load_task("mnist_m", profile)
        test, digest = shifted.test, shifted.sha256
    elif target in RENDERED:
        render, digest = RENDERED[target]
        test = tasks.read_lists(few_shot.parse(source), size, render).test
    elif target == "hard":
        test, digest = hard_ones(source, task)
    elif source == "pacs":
        rows = read_list(tasks.place(source), f"{target}.txt", task.classes, {})
        test, digest = images_of(rows, size), digest_of({"test": rows})
    elif target in ("optdigits", "openclipart_9"):
        images, labels = optdigits() if target == "optdigits" else debian.drawings(target)
        test = Images(resize(images, size), labels)
        digest = hashlib.sha256(np.ascontiguousarray(images).tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    else:
        rows = listed(target, task.classes)
        test, digest = images_of(rows, size), digest_of({"test": rows})
    digest = hashlib.sha256(f"{task.sha256} {target} {digest}".encode()).hexdigest()
    return replace(task, name=f"{source}--{target}", test=test, sha256=digest)


def unavailable_target(target: str) -> str:
    """Return why the files of a shift's target are not there, and the mend, or "" where they are or none are needed."""
    if target in debian.PLACES:
        return debian.unavailable(target)
    root = paths.external_data() / target
    if not target.startswith("imagenet") or root.is_dir():
        return ""
    return f"there is no folder {root}; data/README.md says where it comes from"


def optdigits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1,797 digits, uint8 (1797, 8, 8), light on dark as MNIST's, and their labels."""
    table = np.loadtxt(io.StringIO(gzip.decompress(OPTDIGITS.read()).decode()), delimiter=",")
    return (table[:, :-1].reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8), table[:, -1].astype(int)


def edges(image: Image.Image) -> Image.Image:
    """Return the strength of the image's edges (Sobel), dark on white as a pencil drawing; the strongest are black."""
    grey = np.pad(np.asarray(image.convert("L"), float), 1, mode="edge")
    smooth = [grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:], grey[:-2] + 2 * grey[1:-1] + grey[2:]]  # along each axis
    strength = np.hypot(smooth[0][2:] - smooth[0][:-2], smooth[1][:, 2:] - smooth[1][:, :-2])
    strength /= max(np.percentile(strength, 99), 1e-9)
    return Image.fromarray((255 * (1 - strength.clip(0, 1))).round().astype(np.uint8)).convert("RGB")


def flat(image: Image.Image) -> Image.Image:
    """Return the image in eight colours of its own, smoothed before (a median of 5 x 5 pixels), so that areas are flat."""
    smooth = image.convert("RGB").filter(ImageFilter.MedianFilter(5))
    return smooth.quantize(8, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")


RENDERED = {"edges": (edges, "Sobel"), "flat": (flat, "median 5, 8 colours")}  # of each test image; and what digests say


def hard_ones(source: str, task: Task) -> tuple[Images, str]:
    """Return the test images of a few-shot task of Tiny-ImageNet that `hard.convnet` gets wrong, and their digest."""
    wanted = few_shot.parse(source)
    wnids = tiny_imagenet.wnids_of(tasks.place(wanted.task), wanted.task)
    mask = hard.cached(task.sha256, lambda: tasks.read_lists(wanted, hard.SIZE).test, wnids)
    return Images(task.test.raw[mask], task.test.labels[mask]), f"wrong {''.join(map(str, mask.int().tolist()))}"


def listed(target: str, classes: int) -> list[Row]:
    """Return the rows of `annotations/test_meta.list` in the target's folder, labelled with the source's labels."""
    if reason := unavailable_target(target):
        raise DataError(reason)
    root = paths.external_data() / target
    return read_list(root, "annotations/test_meta.list", classes, {}, few_shot.FOLDERS)
