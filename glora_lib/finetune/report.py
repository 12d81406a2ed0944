"""What came out: accuracy with its interval, the confusion matrix, the hardest pictures, sizes and cost."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from glora_lib.data.own import Own
from glora_lib.training.accuracy import accuracy
from glora_lib.training.files import replacing

HARDEST = 12  # pictures that are named
ALONE = 2000  # test pictures up to which each is asked alone


@dataclass
class Report:
    """The result of `finetune`. Printing it shows what matters; `report.json` in its folder has it all."""

    name: str
    method: str
    seed: int
    classes: list[str]
    pictures: dict[str, int]  # split -> how many
    notes: list[str]
    early: dict[str, float]  # on val, before fine-tuning
    val: float  # accuracy on val, where it was chosen
    accuracy: float  # on test
    interval: tuple[float, float]  # 95 %, Wilson's; the pictures count as drawn independently
    confusion: list[list[int]]  # test pictures: a row a true class, a column a predicted one
    predictions: list[int]  # of each test picture, in the split's order
    files: list[str]  # the test pictures, in the same order
    hardest: list[dict]  # file, true, predicted, probability (of the true class), the lowest first
    sizes: dict[str, int]  # parameters trained, stored a task and of the model; bytes of the files
    seconds: dict[str, float]
    written: dict[str, str] = field(default_factory=dict)  # what -> path, or why it is not there
    provenance: dict = field(default_factory=dict)  # of the run that wrote it, `runs.provenance`

    def __str__(self) -> str:
        low, high = self.interval
        n, early = self.pictures["test"], ", ".join(f"{name} {value:.1%}" for name, value in self.early.items())
        lines = [
            f"{self.name}: {self.accuracy:.1%} of {n} test pictures, 95 % between {low:.1%} and {high:.1%} ({self.method})",
            f"on val: {self.val:.1%}; before: {early}",
            *(f"note: {note}" for note in self.notes),
            f"most often confused: {self.confused()}",
            "hardest: "
            + "; ".join(f"{Path(h['file']).name} is {h['true']}, taken for {h['predicted']}" for h in self.hardest[:3]),
            "parameters: {trained:,} trained, {stored:,} stored a task, {model:,} in the model".format(**self.sizes),
            f"{self.seconds['all']:.0f} s in all",
            *(f"{what}: {path}" for what, path in self.written.items()),
        ]
        return "\n".join(lines)

    def confused(self) -> str:
        """Return the pair of classes that is confused most often, in words."""
        pairs = [
            (count, true, predicted)
            for true, row in enumerate(self.confusion)
            for predicted, count in enumerate(row)
            if true != predicted and count
        ]
        if not pairs:
            return "nothing"
        count, true, predicted = max(pairs)
        return f"{self.classes[true]} taken for {self.classes[predicted]}, {count} of {sum(self.confusion[true])}"

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Return the report in `path`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(**data | {"interval": tuple(data["interval"])})


@torch.no_grad()
def measure(model: nn.Module, own: Own, **known) -> Report:
    """Return the report of a plain model on the test split; `known` are the report's fields of before.

    Pictures are asked one at a time, as `load_it.py` does: in a batch, a sum rounded otherwise may decide a picture.
    """
    task, at_once = own.task, 1 if len(own.task.test) <= ALONE else 100
    places = [list(range(i, min(i + at_once, len(task.test)))) for i in range(0, len(task.test), at_once)]
    logits = torch.cat([model(task.test[batch][0]) for batch in places])
    val = accuracy(model, task.val)
    if not logits.isfinite().all():
        raise ValueError("the model's outputs on test are not finite; train again with a lower rate")
    predictions, labels = logits.argmax(1), task.test.labels
    probabilities = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    confusion = torch.zeros(task.classes, task.classes, dtype=torch.int64)
    confusion.index_put_((labels, predictions), torch.ones_like(labels), accumulate=True)
    hardest = [
        {
            "file": str(own.files["test"][i]),
            "true": task.class_names[labels[i]],
            "predicted": task.class_names[predictions[i]],
            "probability": float(probabilities[i]),
        }
        for i in probabilities.argsort()[:HARDEST].tolist()
    ]
    right = int((predictions == labels).sum())
    return Report(
        name=task.name,
        classes=list(task.class_names),
        pictures={part: len(getattr(task, part)) for part in ("train", "val", "test")},
        notes=list(task.notes),
        val=val,
        accuracy=right / len(labels),
        interval=wilson(right, len(labels)),
        confusion=confusion.tolist(),
        predictions=predictions.tolist(),
        files=[str(path) for path in own.files["test"]],
        hardest=hardest,
        **known,
    )


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share, `right` of n: it holds for few pictures and near 0 and 1 as well."""
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)
