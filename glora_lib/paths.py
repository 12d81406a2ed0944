"""Where things lie: every path of the project is named here, once; and how a file is written, whole or not at all."""

import os
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"
REPORTED = DATA / "reported"
OUT = ROOT / "out"
FIGURES = ROOT / "figures"
CACHE = DATA / "cache"


def external_data() -> Path:
    """Return the folder with the user's own data sets and weights: `GLORA_DATA_DIR`, or `data/cache/`.

    Read at every call, so that a notebook may set the variable after importing the library.
    """
    return Path(os.environ.get("GLORA_DATA_DIR") or CACHE).expanduser()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent: what was there stays until the new content is on the disk.

    Whatever goes wrong, a full disk or an interrupt, no part of it is left behind. Folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # hidden, and no other process's or thread's
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
