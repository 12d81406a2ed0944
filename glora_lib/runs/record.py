"""Records: one JSON file a run, with everything needed to believe it, and the table of them."""

import functools
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import get_type_hints

import pandas as pd

from glora_lib.runs.paths import ROOT
from glora_lib.runs.profiles import PROFILES
from glora_lib.training.files import replacing


class RecordError(ValueError):
    """A record that is malformed, or that was made by code that no commit holds."""


@dataclass
class Record:
    """One run. `metrics` are fractions between 0 and 1 beside the number n of examples that each was measured on."""

    experiment: str  # "vtab1k"
    task: str
    method: str
    profile: str
    seed: int
    settings: dict  # the whole profile as the method used it, the task and the backbone
    metrics: dict
    config: dict | None  # the configuration found or fixed; None where there is nothing to choose
    selected_on: str  # "val", "test (oracle)", or "nothing" where nothing was selected
    cost: dict  # seconds a stage, peak memory in MB, parameters trained, stored and merged
    provenance: dict
    history: dict = field(default_factory=dict)  # curves: one list a quantity
    status: str = "complete"

    @property
    def id(self) -> str:
        """The name of the record's file, without its ending."""
        return f"{self.task}--{self.method}--{self.profile}--s{self.seed}"

    def save(self, root: Path | None = None) -> Path:
        """Write the record to its profile's folder, `<experiment>/<id>.json`, whole or not at all; return the path.

        A record of the same settings is replaced. One of other settings is not: a RecordError names what differs. `root` is
        the project's by default.
        """
        path = folder(self.experiment, self.profile, root) / f"{self.id}.json"
        text = json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"
        check_place(path, json.loads(text)["settings"])
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Return the record in `path`; a RecordError says what is wrong with the file."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:  # also text that is no UTF-8
            raise RecordError(f"{path} cannot be read as a record ({error}); delete it and run it again") from error
        names = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            wrong = sorted(names ^ set(data)) if isinstance(data, dict) else "not an object"
            raise RecordError(f"{path} is malformed: {wrong} missing or unknown; delete it and run it again")
        hints = _types(cls)
        if wrong := [name for name in sorted(names) if not isinstance(data[name], hints[name]) or isinstance(data[name], bool)]:
            raise RecordError(f"{path} is malformed: {wrong} have values of other types; delete it and run it again")
        if wrong := [key for key, value in data["metrics"].items() if not _of_numbers(value)]:
            raise RecordError(f"{path} is malformed: the metrics {wrong} are no finite numbers; delete it and run it again")
        record = cls(**data)
        if record.id != Path(path).stem or record.experiment != Path(path).parent.name:
            raise RecordError(f"{path} holds the record {record.experiment}/{record.id}: a record's name is its content's")
        if not {"commit", "dirty"} <= set(record.provenance):
            raise RecordError(f"{path} is malformed: metrics or provenance is incomplete; delete it and run it again")
        return record


@functools.cache
def _types(kind: type) -> dict:
    return get_type_hints(kind)


def _of_numbers(value) -> bool:
    if isinstance(value, list | dict):
        return all(map(_of_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def changed_settings(path: Path, settings: dict) -> dict:
    """Return name -> (there, here) of the settings in which the record in `path` differs; {} for none, or no whole record.

    What only one of the two names is not compared: records of before a setting existed lack it.
    """
    try:
        there = Record.load(path).settings
    except RecordError:
        return {}
    return {name: (there[name], value) for name, value in settings.items() if name in there and there[name] != value}


def check_place(path: Path, settings: dict) -> None:
    """Raise a RecordError where `path` holds a record of other settings, which a record of these would not replace."""
    if differing := changed_settings(path, settings):
        raise RecordError(
            f"{path} holds a record of other settings, (there, here): {differing}; move it away, or give this run a label"
        )


def folder(experiment: str, profile: str, root: Path | None = None) -> Path:
    """Return the folder that holds the records of an experiment in a profile; `root` is the project's by default."""
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; valid: {', '.join(PROFILES)}")
    return (root or ROOT) / PROFILES[profile].results / experiment


def results(experiment: str, profile: str, *, allow_dirty: bool | None = None) -> pd.DataFrame:
    """Return the records of one experiment and one profile as a table, a row a record, metrics and costs as columns.

    Profiles are never mixed. A malformed record, an incomplete one, and one of uncommitted code (unless `allow_dirty`, or the
    profile allows it) raise a RecordError. Without records the table is empty but has its first columns.
    """
    where = folder(experiment, profile)
    allow_dirty = PROFILES[profile].allow_dirty if allow_dirty is None else allow_dirty
    rows = []
    for path in sorted(where.glob(f"*--{profile}--s*.json")):
        if path.name.startswith("."):  # what systems leave beside files, such as ._NAME
            continue
        record = Record.load(path)
        if record.status != "complete":
            raise RecordError(f"{path} has status {record.status!r}; run it again")
        if record.provenance["dirty"] and not allow_dirty:
            raise RecordError(
                f"{path} was made by code that is in no commit; commit and run it again, or pass allow_dirty=True"
            )
        row = {"task": record.task, "method": record.method, "seed": record.seed, "selected_on": record.selected_on}
        row |= record.metrics | record.cost | {"commit": record.provenance["commit"][:10], "record": record}
        rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["task", "method", "seed", "selected_on", "record"])


def all_results(profile: str, *, allow_dirty: bool | None = None) -> pd.DataFrame:
    """Return `results` of every experiment of a profile that has records, with a column `experiment`."""
    names = sorted(path.name for path in folder("", profile).glob("[!.]*") if path.is_dir())
    tables = [results(name, profile, allow_dirty=allow_dirty).assign(experiment=name) for name in names]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else results("", profile).assign(experiment=[])
