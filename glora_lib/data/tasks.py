"""Every task by its name: built in, read from your folders, from Debian packages, and few-shot drawings of them."""

from collections.abc import Callable
from pathlib import Path

from glora_lib.data import debian, few_shot, folder, packed, tiny_imagenet
from glora_lib.data.clevr import load_clevr_count, load_clevr_dist
from glora_lib.data.digits import load_mnist_5k, load_mnist_m
from glora_lib.data.dsprites import load_dsprites_loc, load_dsprites_ori
from glora_lib.data.earth import load_koeppen_5, load_landcover_10
from glora_lib.data.gratings import load_gratings
from glora_lib.data.indian_pines import load_indian_pines_9
from glora_lib.data.loaded import stays
from glora_lib.data.task import DataError, Task
from glora_lib.runs import paths
from glora_lib.runs.profile import Profile
from glora_lib.runs.profiles import PROFILES

BUILT_IN: dict[str, Callable[[int], Task]] = {
    "gratings": load_gratings,
    "mnist_5k": load_mnist_5k,
    "mnist_m": load_mnist_m,
    "landcover_10": load_landcover_10,
    "koeppen_5": load_koeppen_5,
    "indian_pines_9": load_indian_pines_9,
    "clevr_count": load_clevr_count,
    "clevr_dist": load_clevr_dist,
    "dsprites_loc": load_dsprites_loc,
    "dsprites_ori": load_dsprites_ori,
    "fashion_mnist": debian.load_fashion_mnist,
    "tuxpaint_9": debian.load_tuxpaint_9,
}
NAMED = ("pacs",)  # folders that profiles name beside VTAB's, known before they are there
LISTS = (*few_shot.CLASSES, *tiny_imagenet.NAMES)  # sets with few-shot lists, and only those


def load_task(name: str, profile: Profile | str) -> Task:
    """Return the task `name` at the image size of `profile`, a profile or the name of one.

    The tasks of `BUILT_IN` need no files of yours, but `fashion_mnist` and `tuxpaint_9` need a Debian package. All others are
    folders in `GLORA_DATA_DIR` in VTAB-1K's layout, `vtab-1k/<name>` or `<name>`, whatever their name. Four of VTAB's names are
    both: with `vtab_folders` the profile reads VTAB's own `clevr_count`, `clevr_dist`, `dsprites_loc` and `dsprites_ori`, else
    ours are generated, and the task's `sha256` tells which.

    `<name>-4shot-s0` has 4 training images a class, drawn with seed 0 from any of these tasks, or read from the lists of
    a set in `LISTS`. A task stays loaded while there is room (`loaded`), so treat it as read-only. Raises `DataError`.
    """
    profile = of_name(profile)
    wanted = few_shot.parse(name)
    if wanted and wanted.task not in LISTS:
        return few_shot.subset(load_task(wanted.task, profile), wanted.shots, wanted.seed)
    if wanted:
        return cached_lists(wanted, profile.image_size)
    if is_built_in(name, profile):
        kept = packed.place(name)
        return cached_packed(kept, profile.image_size) if kept.is_file() else cached_built_in(name, profile.image_size)
    if is_folder(name):
        return cached_folder(place(name), profile.image_size)
    if name in LISTS:
        raise DataError(f"{name!r} has few-shot lists only; say how many images a class and which seed: {name}-16shot-s0")
    raise unknown(name)


def unavailable(name: str, profile: Profile | str) -> str:
    """Return why the files of a task are not there, and the mend, or "" where they are: a grid skips it by this.

    Only tasks that need your folders or a Debian package can lack files; what `requirements-data.txt` installs must be
    there, and loading says what is wrong. An unknown or malformed name raises `DataError`.
    """
    profile = of_name(profile)
    wanted = few_shot.parse(name)
    base = wanted.task if wanted else name
    if is_built_in(base, profile):
        return debian.unavailable(base) if base in debian.PLACES and not packed.place(base).is_file() else ""
    if not is_folder(base) and base not in LISTS:
        raise unknown(name)
    return "" if place(base).is_dir() else f"there is no folder {place(base)}; data/README.md says where it comes from"


def place(name: str) -> Path:
    """Return the folder of a task, or of a set with few-shot lists, in `GLORA_DATA_DIR`, whether it is there or not."""
    inside = paths.external_data() / "vtab-1k" / name
    if name in folder.CLASSES or (name not in LISTS and inside.is_dir()):
        return inside
    return paths.external_data() / ("tiny-imagenet" if name in tiny_imagenet.NAMES else name)


def is_built_in(name: str, profile: Profile) -> bool:
    """Return whether a task of this name needs no folder of yours; of VTAB's four names that are both, the profile decides."""
    return name in BUILT_IN and not (name in folder.CLASSES and profile.vtab_folders)


def is_folder(name: str) -> bool:
    """Return whether a task of this name is read from a folder: one that profiles name, or any that has a list of tests."""
    plain = Path(name).name == name and name not in LISTS
    return name in folder.CLASSES or name in NAMED or (plain and (place(name) / folder.LISTS["test"]).is_file())


def unknown(name: str) -> DataError:
    """Return the error for a name that no task has."""
    known = ", ".join(dict.fromkeys((*BUILT_IN, *folder.CLASSES, *NAMED)))
    return DataError(
        f"unknown task {name!r}; valid names: {known}; a folder with lists in {paths.external_data()}; and with -Kshot-sSEED: "
        f"{', '.join(LISTS)}"
    )


def of_name(profile: Profile | str) -> Profile:
    """Return the profile of this name; a profile is returned as it is."""
    if isinstance(profile, str) and profile not in PROFILES:
        raise DataError(f"unknown profile {profile!r}; valid names: {', '.join(PROFILES)}")
    return PROFILES[profile] if isinstance(profile, str) else profile


def read_lists(wanted: few_shot.FewShotName, size: int, change_test: Callable = lambda image: image) -> Task:
    """Return a few-shot task of a set with lists; `change_test` is applied to each test image."""
    if wanted.task in tiny_imagenet.NAMES:
        return tiny_imagenet.load_tiny_imagenet(place(wanted.task), wanted, size, change_test)
    classes = few_shot.CLASSES[wanted.task]
    return few_shot.load_lists(place(wanted.task), wanted.shots, wanted.seed, size, classes=classes, change_test=change_test)


@stays
def cached_built_in(name: str, size: int) -> Task:
    return BUILT_IN[name](size)


@stays
def cached_packed(path: Path, size: int) -> Task:
    return packed.load(path, size)


@stays
def cached_folder(root: Path, size: int) -> Task:
    return folder.load_folder(root, size)


@stays
def cached_lists(wanted: few_shot.FewShotName, size: int) -> Task:
    return read_lists(wanted, size)
