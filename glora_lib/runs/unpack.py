"""Take an archive of records that were computed elsewhere into data/results, after checking every one of them.

python -m glora_lib.runs.unpack out/gpu/records-20261127T120000Z.tar.xz
"""

import argparse
import hashlib
import json
import lzma
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from glora_lib.runs.pack import MANIFEST, PackError
from glora_lib.runs.paths import ROOT
from glora_lib.runs.record import Record, RecordError, folder


def unpack(archive: Path) -> tuple[list[Path], list[str]]:
    """Return the paths of the records that were taken, and in words what was left because it is here already.

    All are checked before one is written. Raises PackError for a file that is no such archive, for a record that was altered
    since it was archived or that the archive does not list, for one of uncommitted code or of a commit that is not known here,
    and for one that is here already with other settings.
    """
    with tempfile.TemporaryDirectory() as scratch:
        records, left, taken = _checked(archive, Path(scratch)), [], []
        for record in records:
            target = folder(record.experiment, record.profile) / f"{record.id}.json"
            if target.exists():
                _compare(record, target)
                left.append(f"{record.experiment}/{record.id} is here already, with the same settings")
            else:
                taken.append(record)
        return [record.save() for record in taken], left


def _checked(archive: Path, scratch: Path) -> list[Record]:
    try:
        with tarfile.open(archive) as content:
            content.extractall(scratch, filter="data")
        listed = json.loads((scratch / MANIFEST).read_text())["records"]
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError, ValueError, KeyError) as error:
        raise PackError(f"{archive} is no archive of records ({error}); copy it again") from error
    there = {path.relative_to(scratch).as_posix() for path in scratch.rglob("*.json")} - {MANIFEST}
    if there != set(listed):
        raise PackError(f"{archive} holds other records than it lists: {sorted(there ^ set(listed))[:3]}; copy it again")
    records = []
    for name, expected in listed.items():
        if hashlib.sha256((scratch / name).read_bytes()).hexdigest() != expected:
            raise PackError(f"{name} in {archive} was altered after it was archived; compute it again")
        try:
            record = Record.load(scratch / name)
        except RecordError as error:
            raise PackError(f"{name} in {archive}: {error}") from error
        if record.provenance["dirty"] or not _known(record.provenance["commit"]):
            state = "code that is in no commit" if record.provenance["dirty"] else f"commit {record.provenance['commit'][:10]}"
            raise PackError(
                f"{name} in {archive} was computed by {state}, which this repository does not have; compute it again"
            )
        records.append(record)
    return records


def _known(commit: str) -> bool:
    done = subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True)
    return done.returncode == 0


def _compare(record: Record, target: Path) -> None:
    here = Record.load(target)
    changed = {n: (here.settings.get(n), v) for n, v in record.settings.items() if here.settings.get(n) != v}
    if changed:
        raise PackError(f"{target} has other settings, (here, in the archive): {changed}; move it away to take the other")


def main(argv: list[str] | None = None) -> int:
    """Unpack what the command line names; return 0, or 2 where it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m glora_lib.runs.unpack", description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    try:
        taken, left = unpack(parser.parse_args(argv).archive)
    except (PackError, RecordError) as error:
        print(error, file=sys.stderr)
        return 2
    print(*left, sep="\n", end="\n" if left else "")
    print(f"{len(taken)} records taken, {len(left)} left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
