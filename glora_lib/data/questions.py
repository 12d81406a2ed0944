"""Multiple-choice questions of four benchmarks from local files, in the form that lm-evaluation-harness reads them, and split.

ARC (challenge), HellaSwag, MMLU and TruthfulQA: what the leaderboard behind Table 2 of GLoRA averaged. The files lie in
`language/` of GLORA_DATA_DIR; data/README.md says where they come from and what they lack.
"""

import csv
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glora_lib.data.task import DataError
from glora_lib.runs import paths

LETTERS = "ABCDE"


@dataclass(frozen=True)
class Questions:
    """Questions of one task of the harness. No question is in two of the three lists.

    Attributes:
        benchmark: "arc", "arc_easy", "hellaswag", "mmlu" or "truthfulqa".
        task: the harness' name of the task, whose prompt and normalisation are used.
        examples: solved questions that may stand in front of each.
        val, test: what selects, and what is reported.
    """

    benchmark: str
    task: str
    examples: list[dict]
    val: list[dict]
    test: list[dict]


def load_questions(sizes: dict[str, tuple[int, int, int]], seed: int = 0) -> list[Questions]:
    """Return the questions of benchmarks, drawn with a seed.

    Args:
        sizes: benchmark -> numbers of examples, validation and test questions. Of MMLU they are numbers a subject, and its
            examples are those that belong to it ("dev"); as many subjects are drawn as the key says behind a dash ("mmlu-20"),
            all 57 without one. A -1 takes all that are left.

    Raises DataError for an unknown benchmark, a missing or malformed file (line named), and for too few questions.
    """
    found = []
    for name, (examples, val, test) in sizes.items():
        benchmark, _, subjects = name.partition("-")
        rng = random.Random(f"{benchmark} {seed}")
        if benchmark == "mmlu":
            dev, rest = _by_subject("mmlu_dev.jsonl"), _by_subject("mmlu_test.jsonl")
            chosen = sorted(rng.sample(sorted(rest), int(subjects))) if subjects else sorted(rest)
            for subject in chosen:
                parts = _parts(rest[subject], (0, val, test), rng, f"mmlu, {subject}")
                found.append(Questions(benchmark, f"mmlu_{subject}", dev.get(subject, [])[:examples], parts[1], parts[2]))
        elif benchmark in LOADERS:
            load, task = LOADERS[benchmark]
            found.append(Questions(benchmark, task, *_parts(load(), (examples, val, test), rng, benchmark)))
        else:
            raise DataError(f"unknown benchmark {name!r}; valid: {', '.join((*LOADERS, 'mmlu', 'mmlu-20'))}")
    return found


def sha256(questions: Sequence[Questions]) -> str:
    """Return the SHA-256 of all questions, splits and order included."""
    return hashlib.sha256(json.dumps([vars(part) for part in questions]).encode()).hexdigest()


def _parts(docs: list[dict], sizes: tuple[int, int, int], rng: random.Random, name: str) -> list[list[dict]]:
    """Draw examples, validation and test questions, each once."""
    docs, needed = rng.sample(docs, len(docs)), sum(max(size, 0) for size in sizes)
    if needed > len(docs):
        raise DataError(f"{name} has {len(docs)} questions, fewer than the {needed} that are asked for")
    parts, start = [], 0
    for size in sizes:
        stop = len(docs) if size < 0 else start + size
        parts.append(docs[start:stop])
        start = stop
    return parts


def _arc(file: str) -> Callable[[], list[dict]]:
    def load() -> list[dict]:
        docs = []
        for record in _lines(file, ("question", "choices", "answer")):
            choices = {"text": record["choices"], "label": list(LETTERS[: len(record["choices"])])}
            question = record["question"].removeprefix("Question: ")  # the harness' prompt begins so
            docs.append({"question": question, "choices": choices, "answerKey": LETTERS[record["answer"]]})
        return docs

    return load


def _hellaswag() -> list[dict]:
    """The file has no names of activities, which the harness puts in front of the context, and no border inside the context."""
    docs = []
    for record in _lines("hellaswag_1000.jsonl", ("context", "choices", "answer")):
        before, stop, begun = record["context"].rpartition(". ")
        if begun[:1].islower():  # a sentence that was begun, which the harness capitalises
            begun = begun.capitalize()
        docs.append({"query": before + stop + begun, "choices": record["choices"], "label": record["answer"]})
    return docs


def _truthfulqa() -> list[dict]:
    path = _path("TruthfulQA.csv")
    docs = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                true, false = ([answer.strip() for answer in row[name].split(";") if answer.strip()] for name in COLUMNS)
                question = row["Question"].strip()
            except (KeyError, AttributeError) as error:
                raise DataError(f"{path}, row {number}: a column is missing ({error})") from error
            targets = {"choices": true + false, "labels": [1] * len(true) + [0] * len(false)}
            docs.append({"question": question, "mc2_targets": targets})
    return docs


def _sums() -> list[dict]:
    """Sums of two numbers below 10, generated: they prove the machinery."""
    choices = {"text": [str(n) for n in range(19)], "label": [str(n) for n in range(19)]}
    return [{"question": f"{a} + {b} = ?", "choices": choices, "answerKey": str(a + b)} for a in range(10) for b in range(10)]


COLUMNS = ("Correct Answers", "Incorrect Answers")
LOADERS = {
    "arc": (_arc("arc_challenge_test.jsonl"), "arc_challenge"),
    "arc_easy": (_arc("arc_easy_test.jsonl"), "arc_easy"),
    "hellaswag": (_hellaswag, "hellaswag"),
    "truthfulqa": (_truthfulqa, "truthfulqa_mc2"),
    "sums": (_sums, "arc_easy"),
}


def _by_subject(file: str) -> dict[str, list[dict]]:
    subjects: dict[str, list[dict]] = {}
    for record in _lines(file, ("subject", "question", "choices", "answer")):
        subjects.setdefault(record["subject"], []).append(record)
    return subjects


def _lines(file: str, keys: Sequence[str]) -> list[dict]:
    """Return the records of a file of JSON lines, or say which line is wrong."""
    path, records = _path(file), []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n"), 1):
        try:
            record = json.loads(line)
            missing = [key for key in keys if key not in record]
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(f"{path}, line {number}: no JSON object ({error})") from error
        if missing or not isinstance(record["answer"], int) or not 0 <= record["answer"] < len(record["choices"]):
            raise DataError(
                f"{path}, line {number}: {'without ' + missing[0] if missing else 'its answer is none of its choices'}"
            )
        records.append(record)
    return records


def _path(file: str) -> Path:
    path = paths.external_data() / "language" / file
    if not path.is_file():
        raise DataError(f"there is no file {path}; data/README.md says where it comes from (set GLORA_DATA_DIR)")
    return path
