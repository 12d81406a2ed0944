"""Take a grid along to a machine without network, data packages or git: weights, tasks and code in checksummed parts.

    python -m glora_lib.runs.pack --profile gpu --out FOLDER --part-mb 48     here
    python reproduce.py --profile gpu --packed FOLDER --minutes 9             there, in the unpacked code or a copy of it
    python -m glora_lib.runs.unpack ARCHIVE                                   here again, with what came out

The parts are one tar.gz file cut up. `data/` in it is a GLORA_DATA_DIR: converted weights, folder tasks as they are, built-in
tasks as arrays at their native size; `code/` is the project at its commit, without records and figures.
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from glora_lib.backbones import BackboneError, packaged
from glora_lib.backbones.files import find
from glora_lib.data import few_shot, packed, shifts_of, tasks, unavailable
from glora_lib.runs.paths import CACHE, OUT, ROOT
from glora_lib.runs.profile import Profile
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.provenance import code_digest, commit
from glora_lib.runs.record import folder

MANIFEST, PART = "manifest.json", "pack.tar.gz.{:03}"
MOST_MB = 15  # of the archive of records
LEFT_OUT = (":!data/results", ":!data/adapters", ":!figures", ":!tests")


class PackError(ValueError):
    """A pack that cannot be made or used; the message says why and what mends it."""


def pack(profile: Profile, out: Path, part_mb: int | float = 48) -> dict:
    """Write everything that the profile's runs need to `out`; return the manifest: commit, profile, tasks, parts and checksums.

    Tasks whose data are not here are left out, and sets that have few-shot lists alone, too. Raises PackError for code that is
    in no commit, for weights that are not here, and for parts of no size.
    """
    if part_mb * 2**20 < 1:
        raise PackError(f"parts of {part_mb} MB hold nothing; give more than 0 (--part-mb)")
    revision, dirty = commit()
    if dirty:
        raise PackError("the code differs from its commit, so that no record of it could be used; commit it first")
    try:
        weights = find(profile.weights) if profile.weights not in ("", "random", "hub") else None
    except BackboneError as error:
        raise PackError(f"the weights of the profile {profile.name} cannot be packed: {error}") from error
    asked = (*profile.tasks, *profile.few_shot, *profile.sources)
    bases = dict.fromkeys(drawn.task if (drawn := few_shot.parse(name)) else name for name in asked)
    names = [name for name in bases if name not in tasks.LISTS and not unavailable(name, profile)]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out) as whole:
        with tarfile.open(fileobj=whole, mode="w:gz", compresslevel=1) as archive:  # many small files: a third less
            packaged.converted()
            for path in sorted(CACHE.glob(f"{packaged.PACKAGED}--*.safetensors")):
                archive.add(path, f"data/{path.name}")
            if weights:
                archive.add(weights.resolve(), f"data/{weights.name}")
            for name in names:
                _add_task(archive, name, profile)
            _add_code(archive)
        parts = _cut(whole, out, int(part_mb * 2**20))
    manifest = {"commit": revision, "code": code_digest(ROOT), "profile": profile.name, "tasks": names, "parts": parts}
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def use(place: Path) -> dict:
    """Unpack a pack beside its parts, unless that very pack was, and let this process and those that it starts use it.

    Returns the manifest. Raises PackError for parts that are missing or changed.
    """
    manifest = read(place)
    unpacked = place / f"unpacked-{manifest['commit'][:10]}"
    if not (unpacked / MANIFEST).exists() or read(unpacked) != manifest:
        _unpack(place, manifest, unpacked)
    os.environ["GLORA_PACKED"] = str((unpacked / MANIFEST).absolute())
    os.environ["GLORA_DATA_DIR"] = str((unpacked / "data").absolute())
    commit.cache_clear()
    return manifest


def read(place: Path) -> dict:
    """Return the manifest in a folder."""
    try:
        return json.loads((place / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise PackError(
            f"{place} holds no pack ({error}); make one with: python -m glora_lib.runs.pack --out FOLDER"
        ) from error


def collect(place: Path, profile: str, since: int | float) -> Path:
    """Write the records of a profile that were saved after `since` (a time as files have it) into one archive; return its path.

    Its first member lists every record's checksum. Raises PackError for an archive of more than 15 MB: collect more often.
    """
    found = [path for path in sorted(folder("", profile).rglob(f"*--{profile}--s*.json")) if path.stat().st_mtime >= since]
    target = OUT / profile / f"records-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.xz"
    target.parent.mkdir(parents=True, exist_ok=True)
    listed = {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
    with tarfile.open(target, "w:xz") as archive:
        _add_text(archive, MANIFEST, json.dumps({"commit": read(place)["commit"], "records": listed}, indent=1))
        for path in found:
            archive.add(path, f"{path.parent.name}/{path.name}")
    if target.stat().st_size > MOST_MB * 2**20:
        raise PackError(f"{target} is larger than {MOST_MB} MB; it is whole, but collect records more often")
    return target


def _add_task(archive: tarfile.TarFile, name: str, profile: Profile) -> None:
    """Add a task: its folder as it is, or a built-in one's arrays."""
    if name in tasks.BUILT_IN and not (name in tasks.folder.CLASSES and profile.vtab_folders):
        content = packed.to_bytes(tasks.BUILT_IN[name])
        _add(archive, f"data/{packed.FOLDER}/{name}.npz", content)
        return
    root = tasks.place(name)
    within = f"data/vtab-1k/{name}" if root.parent.name == "vtab-1k" else f"data/{name}"
    lists = [*tasks.folder.LISTS.values(), "classes.txt", *(f"{shift.target}.txt" for shift in shifts_of(name))]
    for path in sorted(root.rglob("*")):
        if path.is_file() and (path.parent != root or path.name in lists) and not path.name.startswith("."):
            archive.add(path.resolve(), f"{within}/{path.relative_to(root).as_posix()}")


def _add_code(archive: tarfile.TarFile) -> None:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "--format=tar", "HEAD", ".", *LEFT_OUT], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as code:
        for member in code.getmembers():
            if member.isfile():
                _add(archive, f"code/{member.name}", code.extractfile(member).read())


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    _add(archive, name, text.encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _cut(whole, out: Path, size: int) -> dict[str, str]:
    """Write the file in parts; return name -> SHA-256."""
    for old in out.glob("pack.tar.gz.*"):
        old.unlink()
    whole.seek(0)
    parts = {}
    while content := whole.read(size):
        name = PART.format(len(parts))
        (out / name).write_bytes(content)
        parts[name] = hashlib.sha256(content).hexdigest()
    return parts


def _unpack(place: Path, manifest: dict, target: Path) -> None:
    for name, expected in manifest["parts"].items():
        if not (place / name).is_file():
            raise PackError(f"{place / name} is missing: the pack has {len(manifest['parts'])} parts; copy all of them")
        found = hashlib.sha256((place / name).read_bytes()).hexdigest()
        if found != expected:
            raise PackError(f"{place / name} has SHA-256 {found}, expected {expected}; copy it again")
    with tempfile.TemporaryFile(dir=place) as whole:
        for name in manifest["parts"]:
            whole.write((place / name).read_bytes())
        whole.seek(0)
        with tarfile.open(fileobj=whole) as archive:
            archive.extractall(target, filter="data")
    (target / MANIFEST).write_text(json.dumps(manifest))


def main(argv: list[str] | None = None) -> int:
    """Pack what the command line asks for; return 0, or 2 where it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m glora_lib.runs.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="gpu", choices=PROFILES)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--part-mb", type=float, default=48, help="the largest size of a part")
    options = parser.parse_args(argv)
    try:
        manifest = pack(PROFILES[options.profile], options.out, options.part_mb)
    except PackError as error:
        print(error, file=sys.stderr)
        return 2
    sizes = [(options.out / name).stat().st_size for name in manifest["parts"]]
    print(f"{len(sizes)} parts, {sum(sizes) / 2**20:.0f} MB, {len(manifest['tasks'])} tasks, commit {manifest['commit'][:10]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
