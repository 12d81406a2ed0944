"""SuperLoRA's Sec. 4.2 in small: a diffusion model of coloured digits, adapted to plain digits by its attentions alone.

`prepare` trains the source model and the classifier that scores, once; both are kept as files. `execute` adapts, generates and
scores. Which weights the paper adapts is in an appendix that is not at hand; here it is every projection of every attention.
"""

import base64
import io
import time
from dataclasses import replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from glora_lib.backbones import digits as classifiers
from glora_lib.backbones import unet as unets
from glora_lib.backbones.files import sha256
from glora_lib.backbones.load import load_backbone
from glora_lib.data.digits import for_generation
from glora_lib.glora.model import fuse
from glora_lib.methods import trainable_parameters
from glora_lib.runs.paths import CACHE
from glora_lib.runs.provenance import peak_memory, provenance
from glora_lib.runs.record import Record
from glora_lib.runs.run import Run
from glora_lib.runs.transfer_profile import ImageProfile
from glora_lib.superlora import PRESETS, Part
from glora_lib.training import checkpoint as checkpoints
from glora_lib.training.device import device
from glora_lib.training.diffusion import noise_loss, sample
from glora_lib.training.scores import frechet, scores
from glora_lib.training.steps import Batches, run_steps

EXPERIMENT, TASK = "image_generation", "mnist"
FOLD = {"groups": 1, "shape": "fold"}
CLASSIFIER_STEPS, CLASSIFIER_BATCH = 600, 64
SHOWN = 10  # pictures that a record keeps, one of each digit


def _settings() -> dict[str, tuple[str, dict]]:
    found: dict[str, tuple[str, dict]] = {"dense": ("dense", {})}
    found |= {f"LoRA r={r}": ("lora", {"r": r}) for r in (1, 2, 4, 8)}
    found |= {f"2D fold G=1 r={r}": ("lora", FOLD | {"r": r}) for r in (1, 2, 4, 8)}
    found |= {f"2D fold G={G} r={r}": ("lora", FOLD | {"r": r, "groups": G}) for G in (8, 12) for r in (1, 4)}
    for K, sides, ranks in ((2, (6, 8, 10), (4,)), (3, (6, 8, 10), (4,)), (4, (6,), (1,))):
        kind = "LoKr" if K == 2 else "LoNKr"
        found |= {f"{kind} K={K} side={s} r={r}": ("lonkr", {"r": r, "splits": K, "side": s}) for s in sides for r in ranks}
    found["LoKr weight-wise r=2"] = ("lokr", {"r": 2})
    return found


SETTINGS = _settings()


def runs(profile: ImageProfile) -> list[Run]:
    """Return the runs of a profile: the source model as it is, every setting with the first seed, the repeated with all."""
    first, *others = profile.seeds
    names = profile.names or tuple(SETTINGS)
    found = [Run(EXPERIMENT, TASK, "source", profile, first), *(run(name, profile, first) for name in names)]
    return found + [run(name, profile, seed) for seed in others for name in names if name in profile.repeated]


def run(name: str, profile: ImageProfile, seed: int = 0) -> Run:
    """Return the run of a setting by its name."""
    preset, options = SETTINGS[name]
    method = f"superlora_{preset}"
    changed = replace(profile, methods=profile.methods | {method: {"options": options}})
    return Run(EXPERIMENT, TASK, method, changed, seed, label=name.replace(" ", "_"))


def rates(profile: ImageProfile, seed: int = 0) -> list[Run]:
    """Return the runs of the experiment "image_recipe": rates that are compared by the loss on held-out digits."""
    found = []
    for rate in profile.rates:
        for name in ("dense", "2D fold G=1 r=4"):
            one = run(name, replace(profile, learning_rate=rate, pictures=0), seed)
            found.append(replace(one, experiment="image_recipe", label=f"{one.label}-rate{rate:g}"))
    return found


def prepare(profile: ImageProfile) -> Record:
    """Train the source model and the classifier, keep both as files, and return the record of the experiment "image_source".

    A training that was interrupted goes on where it was.
    """
    start = time.perf_counter()
    train = digits(profile.source)["train"]
    model = unets.new_unet().to(device())
    kept = f"source-{profile.source}.pt"
    losses = _denoise(model, train, profile.source_steps, profile.source_batch, profile.source_rate, 0, kept)
    digest = unets.save_unet(model)
    seconds = time.perf_counter() - start
    plain, held_out = digits("mnist").values()
    classifier = _train_classifier(plain)
    right = float((classifier(held_out[0]).argmax(1) == held_out[1]).double().mean())
    half = len(held_out[0]) // 2
    metrics = {"classifier_accuracy": right, "n_held_out": len(held_out[1]), "held_out_loss": held_out_loss(model, held_out)}
    apart = frechet(vit_features(plain[0][:half]), _reference(profile.held_out))
    settings = {name: getattr(profile, name) for name in ("source", "source_steps", "source_batch", "source_rate")}
    settings |= {"unet_sha256": digest, "classifier_sha256": sha256(classifiers.CLASSIFIER)}
    return Record(
        "image_source", profile.source, "source", profile.name, 0, settings,
        metrics | {"frechet_of_digits": apart, "n_digits": half},
        config=None, selected_on="nothing", provenance=provenance(), history={"train": losses},
        cost={"seconds_train": seconds, "trained": sum(p.numel() for p in model.parameters()), "peak_memory_mb": peak_memory()},
    )  # fmt: skip


def execute(run: Run) -> Record:
    """Adapt the source model, generate digits and score them; return the record, not yet saved."""
    recipe, place = run.recipe, device()
    random = recipe.model != "unet"
    model = (unets.new_unet() if random else unets.load_unet()).to(place)
    classifier = (classifiers.new_classifier() if random else classifiers.load_classifier()).eval()
    train, held_out = digits("mnist").values()
    held_out = tuple(part[: recipe.held_out] for part in held_out)
    torch.manual_seed(run.seed)
    history, trained, plain = [], 0, model
    if run.method != "source":
        setting = PRESETS[run.method.removeprefix("superlora_")](**recipe.options)
        net = setting.adapt(model, [Part(name) for name in unets.attention_layers(model)], train=()).to(place)
        history = _denoise(net, train, recipe.steps, recipe.batch_size, recipe.learning_rate, run.seed, run.state("train.pt"))
        trained, plain = trainable_parameters(net), fuse(net)
    plain.eval()
    metrics = {"held_out_loss": held_out_loss(plain, held_out), "n_held_out": len(held_out[1]), "n_train": len(train[1])}
    start, shown = time.perf_counter(), ""
    if recipe.pictures:
        labels = torch.arange(recipe.pictures) % unets.CLASSES
        sampling = {"steps": recipe.sampling_steps, "guidance": recipe.guidance, "seed": run.seed}
        pictures = sample(plain, labels, (3, 28, 28), unets.NONE, **sampling)
        metrics |= scores(classifier, pictures, labels) | {"n_pictures": recipe.pictures}
        metrics["frechet"] = frechet(vit_features(pictures), _reference(recipe.held_out))
        shown = as_png(pictures[:SHOWN])
    settings = recipe.settings() | {"unet_sha256": "random" if random else sha256(unets.SOURCE)}
    cost = {"seconds_train": sum(part["seconds"] for part in history), "seconds_sample": time.perf_counter() - start}
    cost |= {"trained": trained, "stored": trained, "merged": 0, "head": 0, "peak_memory_mb": peak_memory()}
    return Record(
        run.experiment, run.task, run.label or run.method, run.profile.name, run.seed, settings, metrics, config=None,
        selected_on="nothing", cost=cost, provenance=provenance("float32", place),
        history={"train": history, "pictures": shown},
    )  # fmt: skip


@cache
def digits(kind: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return `for_generation` as pictures (n, 3, 28, 28) between -1 and 1 and labels; read-only, since it is kept."""
    found = {}
    for part, (images, labels) in for_generation(kind).items():
        pictures = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        found[part] = pictures, torch.as_tensor(labels, dtype=torch.int64)
    return found


@torch.no_grad()
def held_out_loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the mean noise loss on pictures that nothing was trained on, with times and noise that are always the same."""
    generator, total = torch.Generator().manual_seed(0), 0.0
    for pictures, labels in zip(data[0].split(100), data[1].split(100), strict=True):
        total += float(noise_loss(model, pictures, labels, unets.NONE, generator)) * len(labels)
    return total / len(data[1])


@torch.no_grad()
def vit_features(pictures: Tensor, image_size: int = 42) -> Tensor:
    """Return the packaged ViT's features (n, 384) of pictures between -1 and 1."""
    model = load_backbone(classes=2, image_size=image_size).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = []
    for part in pictures.split(100):
        large = F.interpolate(part, size=(image_size, image_size), mode="bicubic", align_corners=False).clamp(-1, 1)
        found.append(model.forward_head(model.forward_features(((large + 1) / 2 - mean) / std), pre_logits=True))
    return torch.cat(found)


def as_png(pictures: Tensor) -> str:
    """Return pictures side by side as a PNG in base64, which fits into a record."""
    row = ((torch.cat(list(pictures), dim=2) + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(row.cpu().numpy()).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def from_png(text: str) -> np.ndarray:
    """Return what `as_png` wrote, (height, width, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@cache
def _reference(number: int) -> Tensor:
    """The ViT's features of the first held-out digits, which generated ones are compared with."""
    return vit_features(digits("mnist")["held_out"][0][:number])


def _denoise(model, data, steps: int, batch_size: int, rate: float, seed: int, checkpoint) -> list[dict]:
    """Train what requires a gradient to predict noise: AdamW, one cycle of the rate."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=rate, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, cycle_momentum=False)
    batches = Batches(len(data[1]), batch_size, seed)

    def step(number: int) -> float:
        chosen, generator = batches[number], torch.Generator().manual_seed(seed * 1_000_003 + number)
        loss = noise_loss(model, data[0][chosen], data[1][chosen], unets.NONE, generator)
        loss.backward()
        return loss.item()

    path = CACHE / "runs" / checkpoint if isinstance(checkpoint, str) else checkpoint
    settings = {"steps": steps, "batch_size": batch_size, "rate": rate, "seed": seed, "images": len(data[1])}
    kept = {"checkpoint": path, "settings": settings, "belongs": checkpoints.belonging(model, TensorDataset(*data))}
    model.train()
    return run_steps(trained, step, optimizer, scheduler, steps, seed=seed, clip=1.0, **kept)


def _train_classifier(data: tuple[Tensor, Tensor]) -> nn.Module:
    model, batches = classifiers.new_classifier(), Batches(len(data[1]), CLASSIFIER_BATCH, 0)
    trained = dict(model.named_parameters())
    optimizer = torch.optim.Adam(trained.values(), lr=1e-3)

    def step(number: int) -> float:
        chosen = batches[number]
        loss = F.cross_entropy(model(data[0][chosen]), data[1][chosen])
        loss.backward()
        return loss.item()

    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, CLASSIFIER_STEPS)
    run_steps(trained, step, optimizer, schedule, CLASSIFIER_STEPS)
    classifiers.save_classifier(model.eval())
    return model
