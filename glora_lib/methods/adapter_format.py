"""The file of an adapter: one .safetensors with the tensors, and in its metadata a description of what they belong to.

The description has the SHA-256 of the tensors and of itself. Files of an older form, tensors alone with the description in a
.json beside them, are read too.
"""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from glora_lib.methods.belonging import raw_bytes
from glora_lib.training.files import replacing

FIELDS = {"backbone", "backbone_sha256", "sha256", "method", "options", "config"}
ENDING = ".safetensors"
KEY = "glora_lib"  # of the description in the file's metadata


class AdapterError(ValueError):
    """An adapter file that cannot be used, and why."""


def file_of(path: str | Path) -> Path:
    """Return the path of an adapter's file: the ending is added where it is missing, and dots in the name stay."""
    path = Path(path)
    return path if path.name.endswith(ENDING) else path.with_name(path.name + ENDING)


def write(path: Path, tensors: dict[str, Tensor], description: dict) -> None:
    """Write a file whole or not at all, with the SHA-256 of its content added to the description."""
    text = json.dumps(description | {"sha256": _digest(tensors, json.loads(json.dumps(description)))})
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, {KEY: text}))
    _description_beside(path).unlink(missing_ok=True)  # of an older file of this name


def read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Return the description and the tensors of a file, after checking one against the other.

    Raises AdapterError for a file that is missing, truncated or edited, or whose description is.
    """
    damaged = "was truncated or edited; restore it or train the adapter again"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise AdapterError(f"there is no adapter {path}; missing: {path.name}") from error
    except OSError as error:
        raise AdapterError(f"{path} cannot be read ({error}); name a file that can") from error
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
        description = json.loads(metadata[KEY]) if KEY in metadata else None
    except (SafetensorError, ValueError) as error:
        raise AdapterError(f"{path.name} {damaged} ({error})") from error
    if description is None:
        return _read_beside(path, hashlib.sha256(content).hexdigest()), tensors
    _check_fields(description, path.name)
    if description["sha256"] != _digest(tensors, {key: value for key, value in description.items() if key != "sha256"}):
        raise AdapterError(f"{path.name} {damaged}: its SHA-256 is not the one that it was written with")
    return description, tensors


def _description_beside(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(ENDING) + ".json")


def _read_beside(path: Path, sha256: str) -> dict:
    """Return the description in the .json beside a file of the older form, which also has the file's SHA-256."""
    beside = _description_beside(path)
    try:
        description = json.loads(beside.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise AdapterError(f"{path.name} has no description, in its metadata or beside it; missing: {beside.name}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"{beside.name} is not valid JSON ({error}); restore it or train the adapter again") from error
    _check_fields(description, beside.name)
    if sha256 != description["sha256"]:
        raise AdapterError(
            f"{path.name} was truncated or edited: its SHA-256 is {sha256[:12]}, its .json expects "
            f"{str(description['sha256'])[:12]}; restore it or train the adapter again"
        )
    return description


def _check_fields(description: dict, name: str) -> None:
    keys = set(description) if isinstance(description, dict) else set()
    missing = FIELDS - keys | ({"options"} if keys and not isinstance(description.get("options"), dict) else set())
    if missing:
        raise AdapterError(f"{name} lacks {sorted(missing)}; restore it or train the adapter again")


def _digest(tensors: dict[str, Tensor], description: dict) -> str:
    """Return the SHA-256 of the tensors, their names and shapes, and of the description."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()
