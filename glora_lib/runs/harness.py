"""Accuracy on questions by lm-evaluation-harness: its prompts, its normalisation and metrics, on local questions.

The harness asks for log-likelihoods; `likelihood.loglikelihoods` answers, which computes each question once.
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import lm_eval
from datasets import Dataset
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.tasks.hellaswag.utils import preprocess

from glora_lib.data.questions import Questions
from glora_lib.training.likelihood import loglikelihoods

METRICS = {
    "arc": "acc_norm",
    "arc_easy": "acc",
    "hellaswag": "acc_norm",
    "mmlu": "acc",
    "truthfulqa": "acc",
    "sums": "acc_norm",
}
TASKS = Path(lm_eval.__file__).parent / "tasks"


class Likelihoods(TemplateLM):
    """A causal language model as the harness wants it. It generates nothing."""

    def __init__(self, model, tokenizer):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        return self.tokenizer(string, add_special_tokens=bool(add_special_tokens)).input_ids

    def _loglikelihood_tokens(self, requests, **kwargs) -> list[tuple[float, bool]]:
        return loglikelihoods(self.model, [(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False):
        raise NotImplementedError("only answers that a question offers are scored here; take the harness' own class")

    def generate_until(self, requests, disable_tqdm: bool = False):
        raise NotImplementedError("nothing is generated here; take the harness' own class")


def of_the_harness(model, tokenizer, batch_size: int = 8) -> TemplateLM:
    """Return the same model as the harness' own class has it, which computes every text whole."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of a model that is there already
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def answered(lm: TemplateLM, questions: Sequence[Questions], split: str = "test", shots: bool = True) -> dict[str, list[float]]:
    """Return benchmark -> the harness' value for each of its questions, in their order.

    Args:
        lm: `Likelihoods`, or any model of the harness.
        split: "test" or "val".
        shots: put the examples in front of every question, always the same ones in the same order.
    """
    level = logging.getLogger("lm_eval").level
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        tasks = {part.task: _task(part, split, len(part.examples) if shots else 0) for part in questions}
        with contextlib.redirect_stderr(io.StringIO()):  # bars of progress, one a task
            found = evaluate(lm, {"tasks": tasks, "groups": {}, "group_map": {}}, bootstrap_iters=0)["samples"]
    finally:
        logging.getLogger("lm_eval").setLevel(level)
    values: dict[str, list[float]] = {}
    for part in questions:
        samples = sorted(found[part.task], key=lambda sample: sample["doc_id"])
        values.setdefault(part.benchmark, []).extend(float(sample[METRICS[part.benchmark]]) for sample in samples)
    return values


def _task(part: Questions, split: str, shots: int) -> ConfigurableTask:
    """The harness' own task, with our questions in place of a download."""
    docs = {"test": getattr(part, split), "examples": part.examples}
    if part.benchmark == "hellaswag":  # its `process_docs` asks for the name of the activity too
        docs = {name: [_cleaned(doc) for doc in members] for name, members in docs.items()}
    config = _config(part.task) | {
        "dataset_path": "local",
        "custom_dataset": lambda **_: {name: Dataset.from_list(members) for name, members in docs.items() if members},
        "process_docs": None,
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "examples" if shots else None,
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": shots,
    }
    return ConfigurableTask(config=config)


def _cleaned(doc: dict) -> dict:
    return doc | {"query": preprocess(doc["query"]).strip(), "choices": [preprocess(choice) for choice in doc["choices"]]}


@cache
def _config(task: str) -> dict:
    """The task's file in the harness. `task` is one of `Questions.task`."""
    folder = "arc" if task.startswith("arc") else "truthfulqa" if task.startswith("truthfulqa") else task.split("_")[0]
    path = TASKS / folder / ("default" if folder == "mmlu" else "") / f"{task}.yaml"
    return {key: value for key, value in load_yaml(path).items() if key not in ("tag", "dataset_name", "task_alias")}
