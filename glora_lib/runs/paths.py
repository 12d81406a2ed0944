"""Where things lie: every path of the project is named here, once."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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
