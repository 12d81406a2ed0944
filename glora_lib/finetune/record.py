"""A fine-tuning as a record, so that what it gave can be read, shown and checked like every other number."""

import json
import os
import shutil
from pathlib import Path

from glora_lib.finetune.pipeline import finetune
from glora_lib.finetune.report import Report
from glora_lib.runs.paths import OUT
from glora_lib.runs.profile import Profile
from glora_lib.runs.record import Record, RecordError, folder

EXPERIMENT = "own_data"


def recorded(pictures: str | Path, out: Path, profile: Profile, *, method: str, seed: int, compute: str, **options) -> Record:
    """Return the record of `finetune` on these pictures; compute "none" only reads it.

    The record of pictures in OUT, which are a packaged task's, is kept among the results; of pictures of your own `out` has the
    report, and nothing else is written. With "missing" the model in `out` is made if it is not there; with "all" what is in
    `out` is deleted, and everything made anew. Raises RecordError where "none" finds nothing, for a record of other settings,
    and for a report that does not say where it comes from.
    """
    path = folder(EXPERIMENT, profile.name) / f"{Path(pictures).stem}--{method}--{profile.name}--s{seed}.json"
    packaged = OUT.resolve() in Path(pictures).resolve().parents
    if compute == "none" and packaged:
        return Record.load(path)
    if compute == "none" and not (out / "report.json").exists():
        raise RecordError(f'{out} has no report of these pictures; say compute="missing" to make it')
    if compute == "all":
        shutil.rmtree(out, ignore_errors=True)
    report = finetune(pictures, out=out, method=method, seed=seed, **options)
    print(report)
    settings = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    if packaged and path.exists():
        there = Record.load(path)
        changed = [name for name in settings | there.settings if settings.get(name) != there.settings.get(name)]
        if changed and compute == "missing":
            raise RecordError(f'{path} is of other settings ({", ".join(changed)}); say compute="all", which sets it aside')
        if changed:
            path.replace(path.with_name(f"{path.name}.other-settings"))
        elif compute == "missing":
            return there
    if not report.provenance:
        raise RecordError(f'{out / "report.json"} does not say what code it is of; say compute="all", which makes it anew')
    record = as_record(report, settings, profile, Path(pictures).parent)
    if packaged:
        record.save()
    return record


def as_record(report: Report, settings: dict, profile: Profile, root: Path) -> Record:
    """Return a report as a record; pictures are named relative to `root`."""
    metrics = {"test": report.accuracy, "val": report.val} | {f"n_{part}": number for part, number in report.pictures.items()}
    metrics |= {f"val_{name}": value for name, value in report.early.items()}
    cost = {f"seconds_{name}": value for name, value in report.seconds.items()}
    cost |= {"trained": report.sizes["trained"], "stored": report.sizes["stored"], "merged": 0}
    hardest = [entry | {"file": Path(os.path.relpath(entry["file"], root)).as_posix()} for entry in report.hardest]
    history = {"classes": report.classes, "confusion": report.confusion, "interval": list(report.interval), "hardest": hardest}
    return Record(
        EXPERIMENT, report.name, report.method, profile.name, report.seed, settings, metrics, None,
        "val" if report.method == "glora" else "nothing", cost, report.provenance, history | {"notes": report.notes},
    )  # fmt: skip
