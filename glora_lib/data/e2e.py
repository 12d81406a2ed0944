"""The E2E NLG challenge: restaurants as lists of attributes, and sentences that say the same, from a folder or in small.

`e2e-nlg/trainset.csv, devset.csv, testset_w_refs.csv` in GLORA_DATA_DIR, columns `mr` and `ref`, one reference a row; rows of
one meaning representation (mr) follow each other. "tiny" is made here, and proves the machinery.
"""

import csv
import itertools
import random
import re
from dataclasses import dataclass

from glora_lib.data.task import DataError
from glora_lib.runs.paths import external_data

FILES = {"train": "trainset.csv", "dev": "devset.csv", "test": "testset_w_refs.csv"}
ATTRIBUTE = re.compile(r"\s*([^\[\],][^\[\]]*?)\[([^\[\]]*)\]\s*")


@dataclass(frozen=True)
class Restaurants:
    """Pairs to train on and to hold out, and the test's meaning representations with all their references."""

    name: str
    train: tuple[tuple[str, str], ...]
    dev: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, tuple[str, ...]], ...]


def load_e2e(name: str = "e2e") -> Restaurants:
    """Return the challenge's data ("e2e"), or "tiny". Raises `DataError` for a missing or malformed file, the line named."""
    if name == "tiny":
        return _tiny()
    if name != "e2e":
        raise DataError(f"unknown text data {name!r}; valid: e2e, tiny")
    rows = {split: _rows(split) for split in FILES}
    grouped = [(mr, tuple(ref for _, ref in refs)) for mr, refs in itertools.groupby(rows["test"], key=lambda row: row[0])]
    return Restaurants("e2e", tuple(rows["train"]), tuple(rows["dev"]), tuple(grouped))


def unavailable_e2e(name: str = "e2e") -> str:
    """Return why the data are not there, or "" where they are."""
    missing = [file for file in FILES.values() if name == "e2e" and not (_folder() / file).is_file()]
    return f"{_folder()} lacks {', '.join(missing)}; data/README.md says where they come from" if missing else ""


def prompt(mr: str) -> str:
    """Return a meaning representation as what the model reads: "name : Blue Spice | area : city centre ||"."""
    return " | ".join(f"{attribute} : {value}" for attribute, value in attributes(mr)) + " ||"


def attributes(mr: str) -> list[tuple[str, str]]:
    """Return (attribute, value) of "name[Blue Spice], area[city centre]"; a `DataError` for text of another form."""
    found = [ATTRIBUTE.fullmatch(part) for part in re.split(r"(?<=\]),", mr)]
    if not mr or not all(found):
        raise DataError(f"{mr!r} is no meaning representation, such as 'name[Blue Spice], area[city centre]'")
    return [match.groups() for match in found]


def _folder():
    return external_data() / "e2e-nlg"


def _rows(split: str) -> list[tuple[str, str]]:
    path = _folder() / FILES[split]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = []
            for row in reader:
                if not (row.get("mr") or "").strip() or not (row.get("ref") or "").strip():
                    raise DataError(f"{path}, line {reader.line_num}: expected columns mr and ref, found {dict(row)}")
                attributes(row["mr"])
                found.append((row["mr"].strip(), row["ref"].strip()))
    except FileNotFoundError:
        raise DataError(unavailable_e2e()) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); unpack it again") from error
    if not found:
        raise DataError(f"{path} holds no pair; unpack it again")
    return found


def _tiny() -> Restaurants:
    """Twelve restaurants in one kind of sentence."""
    rng, pairs = random.Random(0), []
    for name, area in itertools.product(("Zizzi", "Alimentum", "Aromi", "Cotto"), ("riverside", "city centre", "north")):
        food = rng.choice(("Italian", "Indian"))
        mr = f"name[{name}], food[{food}], area[{area}]"
        pairs.append((mr, (f"{name} serves {food} food in the {area}.", f"In the {area} {name} serves {food} food.")))
    return Restaurants(
        "tiny", tuple((mr, refs[0]) for mr, refs in pairs[:8]), tuple((m, r[0]) for m, r in pairs[8:10]), tuple(pairs[8:])
    )
