"""A small classifier of digits, which scores generated ones; trained by `runs.image_generation` and kept as a file."""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glora_lib.backbones.files import BackboneError
from glora_lib.runs.paths import ROOT

CLASSIFIER = ROOT / "data" / "models" / "digit_classifier.safetensors"


class DigitClassifier(nn.Sequential):
    """A convolutional network from pictures in -1..1 to ten logits; colours are averaged away. 108,618 parameters."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b 3 28 28"]) -> Float[Tensor, "b 10"]:
        return super().forward(x.mean(1, keepdim=True))


def new_classifier(seed: int = 0) -> DigitClassifier:
    """Return a classifier with random weights from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DigitClassifier()


def load_classifier(path: Path = CLASSIFIER) -> DigitClassifier:
    """Return the kept classifier. Raises BackboneError for a file that is missing or does not fit."""
    if not path.exists():
        raise BackboneError(f"there is no {path.name}; make it with runs.image_generation.prepare, or restore it")
    model = DigitClassifier()
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        raise BackboneError(f"{path.name} does not fit: {' '.join(str(error).split())[:300]}") from error
    return model.eval()


def save_classifier(model: nn.Module, path: Path = CLASSIFIER) -> None:
    """Write a classifier's weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}, path)
