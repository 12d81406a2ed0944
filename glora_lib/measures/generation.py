"""How good generated digits are: scores on a small digit classifier trained here, and a Fréchet distance on the packaged ViT.

Neither is what its name says in other papers. "Inception score" has no Inception network here but this classifier;
SuperLoRA's own, by an l1 distance, is in an appendix that is not at hand, so that its form here is our reading. "Fréchet
distance" is between normal distributions fitted to the ViT's 384 features; with some hundred pictures it is biased upwards,
alike for all models.
"""

from pathlib import Path

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from glora_lib.backbones import load_backbone
from glora_lib.paths import ROOT
from glora_lib.training.steps import Batches, run_steps

CLASSIFIER = ROOT / "data" / "models" / "digit_classifier.safetensors"
STEPS, BATCH = 600, 64  # of the classifier's training


class DigitClassifier(nn.Sequential):
    """A small convolutional network from pictures (b, 3, 28, 28) in -1..1 to ten logits; colours are averaged away."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b 3 28 28"]) -> Float[Tensor, "b 10"]:
        return super().forward(x.mean(1, keepdim=True))


def train_classifier(pictures: Tensor, labels: Tensor, path: Path = CLASSIFIER, seed: int = 0) -> DigitClassifier:
    """Return a classifier trained on these pictures, and keep it in a file."""
    torch.manual_seed(seed)
    model = DigitClassifier()
    trained, batches = dict(model.named_parameters()), Batches(len(labels), BATCH, seed)

    def step(number: int) -> float:
        chosen = batches[number]
        loss = F.cross_entropy(model(pictures[chosen]), labels[chosen])
        loss.backward()
        return loss.item()

    optimizer = torch.optim.Adam(trained.values(), lr=1e-3)
    run_steps(trained, step, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS), STEPS, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return model.eval()


def load_classifier(path: Path = CLASSIFIER) -> DigitClassifier:
    """Return the kept classifier; a FileNotFoundError says what makes it."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path.name}; runs.image_generation.source trains it")
    model = DigitClassifier()
    model.load_state_dict(load_file(path))
    return model.eval()


@torch.no_grad()
def scores(classifier: nn.Module, pictures: Tensor, labels: Int64[Tensor, " n"]) -> dict[str, float]:
    """Return what a classifier says of pictures of these classes.

    inception_score: exp of the mean Kullback-Leibler divergence of p(y | x) from the mean p(y), 1 to 10. l1_score: the mean
    l1 distance between the same two, 0 to 1.8. as_asked: the share that it takes for the class that was asked for.
    """
    p = torch.cat([classifier(part).double().softmax(-1) for part in pictures.split(250)])
    mean = p.mean(0, keepdim=True)
    divergence = (p * (p.clamp_min(1e-12).log() - mean.clamp_min(1e-12).log())).sum(1).mean()
    return {
        "inception_score": float(divergence.exp()),
        "l1_score": float((p - mean).abs().sum(1).mean()),
        "as_asked": float((p.argmax(1) == labels).double().mean()),
    }


@torch.no_grad()
def vit_features(pictures: Tensor, image_size: int = 42) -> Float[Tensor, "n 384"]:
    """Return the packaged ViT's features of pictures in -1..1, of its class token."""
    model = load_backbone(classes=2, image_size=image_size).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = []
    for part in pictures.split(100):
        large = F.interpolate(part, size=(image_size, image_size), mode="bicubic", align_corners=False).clamp(-1, 1)
        found.append(model.forward_head(model.forward_features(((large + 1) / 2 - mean) / std), pre_logits=True))
    return torch.cat(found)


def frechet(features: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> float:
    """Return the Fréchet distance between normal distributions fitted to two sets of features.

    |mean - mean|^2 + trace(S + S' - 2 sqrt(S S')), with a millionth on the diagonals so that the root exists.
    """
    a, b = (part.double().numpy() for part in (features, others))
    S, T = (np.cov(part, rowvar=False) + 1e-6 * np.eye(part.shape[1]) for part in (a, b))
    root = scipy.linalg.sqrtm(S @ T).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(S + T - 2 * root))


def as_pictures(images: np.ndarray) -> Float[Tensor, "n 3 h w"]:
    """Return uint8 images (n, h, w, 3) as pictures between -1 and 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def dataset(images: np.ndarray, labels: np.ndarray) -> TensorDataset:
    """Return pictures and labels, indexed with lists."""
    return TensorDataset(as_pictures(images), torch.as_tensor(labels, dtype=torch.int64))
