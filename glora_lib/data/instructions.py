"""Instructions in Alpaca's form, and what a language model is trained on: a prompt by Alpaca's template, then the response.

A file is a JSON list, or JSON lines, of {"instruction", "input", "output"}; "input" may be empty or missing. The loss is on the
response and the end-of-text token alone.
"""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from glora_lib.data.task import DataError
from glora_lib.runs import paths

HEAD = "Below is an instruction that describes a task"
TAIL = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
ALONE = f"{HEAD}. {TAIL}### Response:"  # both as in Stanford Alpaca's train.py (Taori et al., 2023)
WITH_INPUT = f"{HEAD}, paired with an input that provides further context. {TAIL}### Input:\n{{input}}\n\n### Response:"
IGNORED = -100  # the label of what is no response

NAMES = ("tiny", "alpaca_999", "alpaca_2000")
ARCHIVE, MEMBER = "llamafactory-0.9.5.tar.gz", "llamafactory-0.9.5/data/alpaca_en_demo.json"
MEMBER_SHA256 = "bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318"
FETCH = f"run: pip download --no-deps --no-binary llamafactory llamafactory==0.9.5 -d {paths.CACHE}"


def prompt(record: dict) -> str:
    """Return the text that asks for the response, by Alpaca's template."""
    return (WITH_INPUT if record.get("input") else ALONE).format_map(record)


def load_instructions(name: str) -> list[dict]:
    """Return the records of a set by its name; a DataError says where it was looked for.

    "tiny": 40 generated ones. "alpaca_999": from the source archive of llamafactory, in GLORA_DATA_DIR or data/cache; the error
    says how to fetch it. "alpaca_2000": a file in `language/` of GLORA_DATA_DIR, whose answers are of unknown provenance. Else
    a file, there or anywhere.
    """
    if name == "tiny":
        return [_tiny(number) for number in range(40)]
    folders = (paths.external_data(), paths.CACHE)
    if name == "alpaca_999":
        found = [folder / ARCHIVE for folder in folders if (folder / ARCHIVE).is_file()]
        if not found:
            raise DataError(f"{ARCHIVE} is in neither of {', '.join(map(str, folders))}; {FETCH}")
        return _from_archive(found[0])
    if name == "alpaca_2000":
        name = "alpaca_2000.json"
    found = [path for path in (paths.external_data() / "language" / name, Path(name)) if path.is_file()]
    if not found:
        raise DataError(
            f"{name!r} is no file, neither in {paths.external_data() / 'language'}; valid: {', '.join(NAMES)}, a file"
        )
    return read(found[0])


def read(path: str | Path) -> list[dict]:
    """Return the records of a file; a DataError names the line, or the record, that is malformed, or an empty file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8 ({error})") from error
    if not text.strip():
        raise DataError(f"{path} is empty; a file of instructions holds a JSON list, or one JSON object a line")
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: no JSON ({error.msg}); mend this line") from error
        records = [(f"record {number}", record) for number, record in enumerate(records)]
    else:
        records = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    records.append((f"line {number}", json.loads(line)))
                except json.JSONDecodeError as error:
                    raise DataError(f"{path}, line {number}: no JSON ({error.msg}); mend this line") from error
    for where, record in records:
        wrong = _wrong(record)
        if wrong:
            raise DataError(f'{path}, {where}: {wrong}; expected {{"instruction": ..., "input": ..., "output": ...}}, all text')
    if not records:
        raise DataError(f"{path} holds no record")
    return [record for _, record in records]


class Instructions(Dataset):
    """Encoded instructions; `data[list_of_indices]` is a batch (tokens, labels), padded on the right, both (B, T) int64.

    Args:
        records: what `read` returns.
        tokenizer: of transformers, with an end-of-text token.
        length: the most tokens that a record may have; a longer one is a DataError.

    Attributes:
        sha256: of the records.
    """

    def __init__(self, records: Sequence[dict], tokenizer, length: int):
        self.encoded = [encode(record, tokenizer) for record in records]
        for number, (tokens, _) in enumerate(self.encoded):
            if len(tokens) > length:
                raise DataError(
                    f"instruction {number} ({records[number]['instruction'][:40]!r}) has {len(tokens)} tokens, more than the "
                    f"{length} that a sequence may have; leave it out (`fitting`) or allow longer sequences"
                )
        self.padding = tokenizer.eos_token_id
        self.sha256 = hashlib.sha256(json.dumps([dict(record) for record in records]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Int64[Tensor, "batch tokens"], Int64[Tensor, "batch tokens"]]:
        batch = [self.encoded[int(index)] for index in indices]
        longest = max(len(tokens) for tokens, _ in batch)
        tokens = torch.tensor([tokens + [self.padding] * (longest - len(tokens)) for tokens, _ in batch])
        labels = tokens.clone()
        for row, (whole, asked) in zip(labels, batch, strict=True):
            row[:asked] = IGNORED
            row[len(whole) :] = IGNORED
        return tokens, labels


def encode(record: dict, tokenizer) -> tuple[list[int], int]:
    """Return the tokens of prompt, response and end of text, and how many of them are the prompt's."""
    asked = tokenizer(prompt(record)).input_ids
    return asked + tokenizer(record["output"], add_special_tokens=False).input_ids + [tokenizer.eos_token_id], len(asked)


def fitting(records: Sequence[dict], tokenizer, length: int) -> list[dict]:
    """Return the records that have at most `length` tokens, prompt and end included, in their order."""
    return [record for record in records if len(encode(record, tokenizer)[0]) <= length]


def _wrong(record) -> str:
    if not isinstance(record, dict):
        return f"found {type(record).__name__}, no object"
    missing = [name for name in ("instruction", "output") if not str(record.get(name) or "").strip()]
    if missing:
        return f"{' and '.join(missing)} missing or empty"
    strange = [name for name in ("instruction", "input", "output") if not isinstance(record.get(name, ""), str)]
    return f"{strange[0]} is no text" if strange else ""


def _from_archive(path: Path) -> list[dict]:
    """The records inside llamafactory's source archive."""
    try:
        with tarfile.open(path) as archive:
            content = archive.extractfile(MEMBER).read()
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())}); delete it and {FETCH}") from error
    if (found := hashlib.sha256(content).hexdigest()) != MEMBER_SHA256:
        raise DataError(f"{MEMBER} in {path} has SHA-256 {found}, expected {MEMBER_SHA256}; delete it and {FETCH}")
    return json.loads(content)


def _tiny(number: int) -> dict:
    """A record that a model of any size can learn."""
    word = ("red", "blue", "green", "black", "white")[number % 5]
    return {
        "instruction": f"Repeat the word {number // 5 + 1} times.",
        "input": word,
        "output": " ".join([word] * (number // 5 + 1)),
    }
