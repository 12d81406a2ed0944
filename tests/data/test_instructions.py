"""Instructions: Alpaca's template, what is labelled, and files that are malformed, with the line."""

import json
import tarfile

import pytest
import torch

from glora_lib.backbones import load_language_model
from glora_lib.data import DataError
from glora_lib.data import instructions as module
from glora_lib.data.instructions import IGNORED, Instructions, encode, fitting, load_instructions, prompt, read

GOOD = {"instruction": "Name a colour.", "input": "", "output": "Red."}


@pytest.fixture(scope="module")
def tokenizer():
    return load_language_model("random")[1]


@pytest.fixture
def written(tmp_path):
    def write(text: str):
        path = tmp_path / "file.json"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_prompt_is_alpaca_s_with_and_without_input():
    alone, other = prompt(GOOD), prompt(GOOD | {"input": "red or {blue}"})
    assert alone.startswith("Below is an instruction that describes a task. Write a response that appropriately completes")
    assert alone.endswith("\n\n### Instruction:\nName a colour.\n\n### Response:")
    assert "paired with an input that provides further context" in other
    assert other.endswith("### Input:\nred or {blue}\n\n### Response:")


def test_the_response_and_the_end_are_labelled_and_nothing_else(tokenizer):
    records = [GOOD, GOOD | {"output": "Blue, which is a colour, too."}]
    data = Instructions(records, tokenizer, length=300)
    tokens, labels = data[[1, 0]]
    assert tokens.shape == labels.shape
    for row, record in zip(range(2), reversed(records), strict=True):
        kept = labels[row] != IGNORED
        assert tokenizer.decode(tokens[row][kept]) == record["output"] + tokenizer.eos_token
        assert torch.equal(tokens[row][kept], labels[row][kept])
        assert tokenizer.decode(tokens[row][: int(kept.nonzero()[0])]) == prompt(record)
    assert len(data) == 2
    assert data.sha256 != Instructions(records[:1], tokenizer, 300).sha256


def test_what_is_too_long_is_named_or_left_out(tokenizer):
    records = [GOOD, GOOD | {"output": "red " * 50}]
    size = len(encode(GOOD, tokenizer)[0])
    assert fitting(records, tokenizer, size) == [GOOD]
    assert fitting(records, tokenizer, size - 1) == []
    with pytest.raises(DataError, match=rf"instruction 1 \('Name a colour.'\) has \d+ tokens, more than the {size} that"):
        Instructions(records, tokenizer, size)


def test_lists_and_lines_are_read_alike(written):
    records = [GOOD, {"instruction": "Say \u2028 it.", "output": "It."}]
    assert read(written(json.dumps(records))) == records
    assert read(written("\ufeff" + "\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n\n")) == records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a file of instructions holds a JSON list, or one JSON object a line"),
        ("[]", "holds no record"),
        ('[{"instruction": "a", "output": "b"},\n {"instruction": }]', "line 2: no JSON"),
        (json.dumps(GOOD) + '\n{"instruction"', "line 2: no JSON"),
        (json.dumps(GOOD) + "\n" + json.dumps({"instruction": "a"}), "line 2: output missing or empty; expected"),
        (json.dumps([GOOD, {"input": "x"}]), "record 1: instruction and output missing or empty"),
        (json.dumps([GOOD | {"input": 3}]), "record 0: input is no text"),
        (json.dumps([GOOD | {"output": "  "}]), "record 0: output missing or empty"),
        ("[1]", "record 0: found int, no object"),
    ],
)
def test_a_malformed_file_is_named_with_the_line(written, text, message):
    with pytest.raises(DataError, match=f"file.json.*{message}"):
        read(written(text))


def test_sets_are_found_by_name(tmp_path, monkeypatch):
    assert len(load_instructions("tiny")) == 40
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(module.paths, "CACHE", tmp_path / "cache")
    with pytest.raises(DataError, match="llamafactory-0.9.5.tar.gz is in neither of .*; run: pip download"):
        load_instructions("alpaca_999")
    with pytest.raises(DataError, match="'mine.json' is no file.*valid: tiny, alpaca_999, alpaca_2000, a file"):
        load_instructions("mine.json")
    (tmp_path / "language").mkdir()
    (tmp_path / "language" / "mine.json").write_text(json.dumps([GOOD]))
    assert load_instructions("mine.json") == [GOOD]

    archive = tmp_path / module.ARCHIVE
    archive.write_bytes(b"<html>quota</html>")
    with pytest.raises(DataError, match="cannot be read .*; delete it and run: pip download"):
        load_instructions("alpaca_999")
    with tarfile.open(archive, "w:gz") as file:
        (tmp_path / "mine").write_text("[]")
        file.add(tmp_path / "mine", module.MEMBER)
    with pytest.raises(DataError, match="has SHA-256 .*, expected bcc37c64"):
        load_instructions("alpaca_999")
