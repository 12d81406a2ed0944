"""What lies in a folder of data sets: what is there, what is missing, and what is wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glora_lib.data import few_shot, folder
from glora_lib.data.folder import decode, read_list
from glora_lib.data.task import DataError
from glora_lib.runs import paths

# Test images of each task of VTAB (Zhai et al. 2019), and of CIFAR-10.
TEST = {
    **{"cifar": 10_000, "caltech101": 6084, "dtd": 1880, "oxford_flowers102": 6149, "oxford_iiit_pet": 3669, "svhn": 26_032},
    **{"sun397": 21_750, "cifar10": 10_000, "patch_camelyon": 32_768, "eurosat": 5400, "resisc45": 6300},
    **{"diabetic_retinopathy": 42_670, "clevr_count": 15_000, "clevr_dist": 15_000, "dmlab": 22_735, "kitti": 711},
    **{"dsprites_loc": 73_728, "dsprites_ori": 73_728, "smallnorb_azi": 12_150, "smallnorb_ele": 12_150},
}
SIZES = {"train": 800, "val": 200}
FEW_SHOT = {**few_shot.CLASSES, "tiny-imagenet": 200}
SHOTS, SEEDS = (1, 2, 4, 8, 16), (0, 1, 2)
VARIANTS = {"imagenetv2": 10_000, "imagenet-sketch": 50_889, "imagenet-a": 7500, "imagenet-r": 30_000}  # test images
STATES = ("ok", "missing", "wrong")


@dataclass(frozen=True)
class Finding:
    """One data set: where it is expected, "ok", "missing" or "wrong", and what was found."""

    place: str
    state: str
    detail: str


@dataclass(frozen=True)
class Report:
    """What `check` found; printing it shows one line a data set and a sum."""

    root: Path
    findings: tuple[Finding, ...]

    def count(self, state: str) -> int:
        """Return how many data sets are "ok", "missing" or "wrong"."""
        return sum(finding.state == state for finding in self.findings)

    def __str__(self) -> str:
        width = max(len(finding.place) for finding in self.findings)
        rows = [f"{finding.place:{width}}  {finding.state:7}  {finding.detail}" for finding in self.findings]
        total = ", ".join(f"{self.count(state)} {state}" for state in STATES)
        return "\n".join([f"{self.root}: {total}", *rows])


def check(path: str | Path | None = None) -> Report:
    """Return what is there, missing and wrong in `path`, or in `GLORA_DATA_DIR`: reads every list, and one image of each.

    Looked for are the 19 tasks of VTAB-1K and CIFAR-10, other tasks in their layout, the sets with few-shot lists, ImageNet's
    variants and the paper's weights. Nothing is raised for what is wrong: the line that says so names the file, the line and
    the mend.
    """
    root = Path(path).expanduser() if path is not None else paths.external_data()
    others = sorted(place.parent.name for place in (root / "vtab-1k").glob(f"*/{folder.LISTS['train']}"))
    findings = [find(root, f"vtab-1k/{name}", check_vtab) for name in dict.fromkeys([*folder.CLASSES, *others])]
    findings += [find(root, name, check_few_shot) for name in FEW_SHOT]
    findings += [find(root, name, check_variant) for name in VARIANTS]
    weights = root / "ViT-B_16.npz"
    found = f"{weights.stat().st_size / 2**20:.0f} MB, checked when it is loaded" if weights.is_file() else "no file"
    return Report(root, (*findings, Finding(weights.name, "ok" if weights.is_file() else "missing", found)))


def find(root: Path, place: str, examine: Callable[[Path], str]) -> Finding:
    """Return what `examine` says of one data set: its text, or the message of its `DataError`."""
    if not (root / place).is_dir():
        deeper = [*root.glob(f"*/{place}"), *(root / place).parent.glob(f"*/{(root / place).name}")]
        return Finding(place, "missing", f"no folder here, but {deeper[0]}: move it up" if deeper else "no folder")
    try:
        return Finding(place, "ok", examine(root / place))
    except DataError as error:
        return Finding(place, "wrong", str(error))


def check_vtab(root: Path) -> str:
    """Return the sizes of a VTAB-1K folder; `DataError` for lists, labels, images or sizes that are not VTAB's.

    A task that is not VTAB's has no size that it must have, and the classes that `folder.load_folder` gives it.
    """
    names, seen = folder.class_names(root, folder.CLASSES.get(root.name)), {}
    lists = {split: read_list(root, file, len(names) if names else None, seen) for split, file in folder.LISTS.items()}
    for split, size in (SIZES | {"test": TEST[root.name]} if root.name in TEST else {}).items():
        if len(lists[split]) != size:
            raise DataError(f"{root / folder.LISTS[split]} has {len(lists[split]):,} images, VTAB's has {size:,}")
    return describe(lists, len(names or folder.numbered(lists, root)))


def check_few_shot(root: Path) -> str:
    """Return the sizes of a set with few-shot lists; `DataError` for a fault in any list."""
    classes, seen = FEW_SHOT[root.name], {}
    names = {"val": "val_meta.list", "test": "test_meta.list"}
    lists = {split: read_list(root, f"annotations/{file}", classes, seen, few_shot.FOLDERS) for split, file in names.items()}
    there, absent = [], []
    for shots in SHOTS:
        for seed in SEEDS:
            file = root / "annotations" / f"train_meta.list.num_shot_{shots}.seed_{seed}"
            if not file.is_file():
                absent.append(f"{shots}-shot seed {seed}")
                continue
            rows = read_list(root, f"annotations/{file.name}", classes, dict(seen), few_shot.FOLDERS)
            if thin := [label for label in range(classes) if sum(y == label for _, y, _ in rows) != shots]:
                raise DataError(f"{file} should list {shots} images of each class; it does not for label {thin[0]}")
            there.append(rows)
    if not there:
        raise DataError(f"{root / 'annotations'} has no list train_meta.list.num_shot_K.seed_S")
    text = f"{len(there)} training lists; {describe(lists, classes)}"
    return f"{text}; not there: {', '.join(absent)}" if absent else text


def check_variant(root: Path) -> str:
    """Return the size of a variant of ImageNet, whose labels are ImageNet's 1,000."""
    rows = read_list(root, "annotations/test_meta.list", 1000, {}, few_shot.FOLDERS)
    if len(rows) != VARIANTS[root.name]:
        raise DataError(f"{root / 'annotations/test_meta.list'} has {len(rows):,} images, not {VARIANTS[root.name]:,}")
    return describe({"test": rows}, 1000)


def describe(lists: dict, classes: int) -> str:
    """Return sizes and classes in words, after decoding the first image of each list."""
    for rows in lists.values():
        decode(rows[0][0], rows[0][2])
    sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in lists.items())
    return f"{sizes}; {len({label for rows in lists.values() for _, label, _ in rows})} of {classes} classes occur"
