"""Tasks by name: packaged, generated, and VTAB-1K folders. `data/README.md` says what each is and is not."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from glora_lib import paths
from glora_lib.data.clevr import load_clevr_count, load_clevr_dist
from glora_lib.data.digits import load_mnist_5k, load_mnist_m
from glora_lib.data.dsprites import load_dsprites_loc, load_dsprites_ori
from glora_lib.data.earth import load_koeppen_5, load_landcover_10
from glora_lib.data.folder import CLASSES, load_folder
from glora_lib.data.gratings import load_gratings
from glora_lib.data.indian_pines import load_indian_pines_9
from glora_lib.data.task import DataError, Images, Task
from glora_lib.profile import PROFILES, Profile

__all__ = ["DataError", "Images", "Task", "load_folder", "load_task"]

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
}


def load_task(name: str, profile: Profile | str) -> Task:
    """Return the task `name` at the image size of `profile`, a profile or the name of one.

    The tasks of `BUILT_IN` need no files of yours. The 19 tasks of VTAB-1K and `cifar10` are read from `vtab-1k/<name>`
    in `GLORA_DATA_DIR`. Four names are both: with `vtab_folders` the profile reads VTAB's own `clevr_count`, `clevr_dist`,
    `dsprites_loc` and `dsprites_ori`, else ours are generated, and the task's `sha256` tells which. A task is loaded once
    a process, so treat it as read-only. Raises `DataError`.
    """
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise DataError(f"unknown profile {profile!r}; valid names: {', '.join(PROFILES)}")
        profile = PROFILES[profile]
    if name in CLASSES and (name not in BUILT_IN or profile.vtab_folders):
        return cached_folder(paths.external_data() / "vtab-1k" / name, profile.image_size)
    if name in BUILT_IN:
        return cached_built_in(name, profile.image_size)
    raise DataError(f"unknown task {name!r}; valid names: {', '.join(dict.fromkeys((*BUILT_IN, *CLASSES)))}")


@lru_cache(maxsize=8)
def cached_built_in(name: str, size: int) -> Task:
    return BUILT_IN[name](size)


@lru_cache(maxsize=2)  # at 224 pixels one of these takes gigabytes
def cached_folder(root: Path, size: int) -> Task:
    return load_folder(root, size)
