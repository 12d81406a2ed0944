"""Instructions in Alpaca's form, and what a language model is trained on: a prompt by Alpaca's template, then the response.

A file is a JSON list, or JSON lines, of {"instruction", "input", "output"}; "input" may be empty or missing. The loss is on the
response and the end-of-text token alone.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from glora_lib.data.task import DataError

HEAD = "Below is an instruction that describes a task"
TAIL = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
ALONE = f"{HEAD}. {TAIL}### Response:"  # both as in Stanford Alpaca's train.py (Taori et al., 2023)
WITH_INPUT = f"{HEAD}, paired with an input that provides further context. {TAIL}### Input:\n{{input}}\n\n### Response:"
IGNORED = -100  # the label of what is no response


def prompt(record: dict) -> str:
    """Return the text that asks for the response, by Alpaca's template."""
    return (WITH_INPUT if record.get("input") else ALONE).format_map(record)


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
