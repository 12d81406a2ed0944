"""Questions: what the files become, that no question is in two lists, and which line is wrong."""

import json

import pytest
from fixtures.questions import write

from glora_lib.data import DataError
from glora_lib.data.questions import load_questions, sha256

SIZES = {"arc": (2, 3, 5), "hellaswag": (1, 2, 4), "mmlu-2": (5, 2, 3), "truthfulqa": (0, 2, -1)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GLORA_DATA_DIR", str(write(tmp_path)))
    return tmp_path / "language"


def test_the_lists_are_disjoint_as_large_as_asked_for_and_the_same_every_time():
    found = load_questions(SIZES)
    assert [part.task for part in found][:2] == ["arc_challenge", "hellaswag"]
    assert len([part for part in found if part.benchmark == "mmlu"]) == 2
    for part in found:
        numbers = SIZES["mmlu-2" if part.benchmark == "mmlu" else part.benchmark]
        assert (len(part.examples), len(part.val)) == numbers[:2]
        texts = [json.dumps(doc) for doc in (*part.val, *part.test)]
        texts += [] if part.benchmark == "mmlu" else [json.dumps(doc) for doc in part.examples]  # those are another file's
        assert len(set(texts)) == len(texts)
    assert len(found[-1].test) == 12 - 2
    assert sha256(found) == sha256(load_questions(SIZES)) != sha256(load_questions(SIZES, seed=1))


def test_files_become_what_the_harness_reads():
    arc, swag, mmlu, qa = (load_questions({name: (0, 0, 12)})[0].test for name in ("arc", "hellaswag", "mmlu", "truthfulqa"))
    doc = next(doc for doc in arc if doc["question"] == "What is 6?")
    assert doc["answerKey"] == "C"
    assert doc["choices"]["label"] == ["A", "B", "C", "D"]
    assert {doc["query"][-9:] for doc in swag} == {"Begin. It"}  # the sentence that was begun
    assert {doc["subject"] for doc in mmlu} == {"anatomy"}
    assert {len(doc["mc2_targets"]["choices"]) for doc in qa} == {4}
    assert {tuple(doc["mc2_targets"]["labels"]) for doc in qa} == {(1, 1, 0, 0)}


def test_too_few_questions_and_unknown_names_are_errors():
    with pytest.raises(DataError, match="arc has 12 questions, fewer than the 14 that are asked for"):
        load_questions({"arc": (2, 2, 10)})
    with pytest.raises(DataError, match="unknown benchmark 'boolq'; valid: arc, arc_easy, hellaswag, truthfulqa, sums, mmlu"):
        load_questions({"boolq": (0, 0, 1)})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "x"', "line 13: no JSON object"),
        ("[1, 2]", "line 13: without question"),
        ('{"question": "x", "choices": ["a"], "answer": 1}', "line 13: its answer is none of its choices"),
    ],
)
def test_a_malformed_line_is_named(folder, line, message):
    with (folder / "arc_challenge_test.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=f"arc_challenge_test.jsonl, {message}"):
        load_questions({"arc": (0, 0, 1)})


def test_missing_files_say_where_they_should_lie(folder):
    (folder / "TruthfulQA.csv").unlink()
    with pytest.raises(DataError, match="there is no file .*TruthfulQA.csv; data/README.md says where it comes from"):
        load_questions({"truthfulqa": (0, 0, 1)})


def test_generated_sums_need_no_file(folder, monkeypatch):
    monkeypatch.delenv("GLORA_DATA_DIR")
    doc = load_questions({"sums": (2, 1, 3)})[0].test[0]
    a, b = (int(part) for part in doc["question"].removesuffix(" = ?").split(" + "))
    assert doc["answerKey"] == str(a + b)
