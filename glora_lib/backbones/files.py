"""Files of weights: where they are found, their checksums, and the error that says what mends them."""

import hashlib
from pathlib import Path

from glora_lib.paths import external_data


class BackboneError(RuntimeError):
    """Weights that are missing, changed or of another model; the message says what mends it."""


def find(weights: str) -> Path:
    """Return the file `weights` in the GLORA_DATA_DIR folder, or anywhere else; a BackboneError names both places."""
    if not weights:
        raise BackboneError('no weights were named; give a file, or "random" for none: no download hub is asked')
    for path in (external_data() / weights, Path(weights)):
        if path.is_file():
            return path
    raise BackboneError(f"{weights!r} is neither in {external_data()} (set GLORA_DATA_DIR) nor a path of a file")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
