"""A fine-tuning as a record, so that what it gave can be read, shown and checked like every other number."""

import json
import os
from pathlib import Path

from glora_lib.finetune.pipeline import finetune
from glora_lib.finetune.report import Report
from glora_lib.runs.profile import Profile
from glora_lib.runs.provenance import provenance
from glora_lib.runs.record import Record, RecordError, folder

EXPERIMENT = "own_data"


def recorded(pictures: str | Path, out: Path, profile: Profile, *, method: str, seed: int, compute: str, **options) -> Record:
    """Return the record of `finetune` on these pictures; compute "none" only reads it.

    With "missing" the model in `out` is made if it is not there, with "all" in any case, and recorded where there is no record.
    Raises RecordError where "none" finds no record.
    """
    path = folder(EXPERIMENT, profile.name) / f"{Path(pictures).stem}--{method}--{profile.name}--s{seed}.json"
    if compute == "none":
        return Record.load(path)
    report = finetune(pictures, out=out, method=method, seed=seed, **options)
    print(report)
    if compute == "missing":
        try:
            return Record.load(path)
        except RecordError:
            pass
    record = as_record(report, json.loads((out / "settings.json").read_text(encoding="utf-8")), profile, Path(pictures).parent)
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
        "val" if report.method == "glora" else "nothing", cost, provenance(), history | {"notes": report.notes},
    )  # fmt: skip
