"""Steps on one device, in two number formats: ours alone and many at once, the literal formula's, peft's, and the limit.

    python -m glora_lib.benchmark --device cuda

Random weights take as long as pretrained ones. Every contestant is visited once a round, in a new order each; what is compared
is the ratio within a round.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from glora_lib.benchmark.literal import literal
from glora_lib.benchmark.others import peft_glora, peft_lora
from glora_lib.benchmark.steps import Visit, in_turns
from glora_lib.glora.masked import Masks
from glora_lib.glora.model import adapt
from glora_lib.glora.score import Score
from glora_lib.glora.space import Space
from glora_lib.measures.inference import flops
from glora_lib.methods import METHODS
from glora_lib.runs.profile import PAPER
from glora_lib.runs.provenance import provenance
from glora_lib.runs.record import Record
from glora_lib.training import device as devices
from glora_lib.training.batch import autocast
from glora_lib.training.loop import train_step
from glora_lib.training.many import Program

CLASSES, RUNS, VALIDATION, TOGETHER = 10, 11, 200, 25
EXPERIMENT, TASK = "benchmark_device", "random_images"


@dataclass(frozen=True)
class Model:
    """An architecture of timm and the size of its images."""

    label: str
    name: str
    image_size: int

    def make(self) -> nn.Module:
        """Return it with random weights, the same every time."""
        torch.manual_seed(0)
        return timm.create_model(self.name, num_classes=CLASSES, img_size=self.image_size)


MODELS = (
    Model("ViT-S/14, 98 px", "vit_small_patch14_dinov2", 98),
    Model("ViT-B/16, 224 px", "vit_base_patch16_224", 224),
)
ON_A_PROCESSOR = MODELS[:1], 2  # where a step of the larger model takes a minute, and many at once gain nothing


def measure(
    place: torch.device,
    models: Sequence[Model] = MODELS,
    dtypes: Sequence[str] = ("bfloat16", "float32"),
    batch: int = 64,
    rounds: int = 11,
    runs: int = RUNS,
    say: Callable[[str], None] = lambda line: None,
) -> Record:
    """Return the record of all models in all number formats on one device, not yet saved."""
    history, start = {}, time.perf_counter()
    for model in models:
        for dtype in dtypes:
            say(f"{model.label}, {dtype}")
            history[f"{model.label}, {dtype}"] = _one(model, dtype, place, batch, rounds, runs)
    settings = {"models": [m.label for m in models], "dtypes": list(dtypes), "batch": batch, "rounds": rounds, "runs": runs}
    name = devices.describe(place).get("device_name", "processor").replace(" ", "-").lower()
    return Record(
        EXPERIMENT, TASK, name, "gpu", 0, settings, {"n_rounds": rounds}, None, "nothing",
        {"seconds": time.perf_counter() - start}, provenance("bfloat16 and float32", place), history,
    )  # fmt: skip


def table(record: Record) -> pd.DataFrame:
    """Return a row for every step of a model in a number format, with medians over rounds.

    Columns: model, dtype, step, ms, ms a run (or a candidate, where a score has several), times as fast as literal (a run, in
    the same round), peak MB, limit ms (what its products take at the device's own rate), times the limit.
    """
    rows = []
    for name, part in record.history.items():
        label, dtype = name.rsplit(", ", 1)
        literal_ms = np.array(part["seconds"]["supernet, literal"])
        for step, seconds in part["seconds"].items():
            runs = part["runs"].get(step, 1)
            median = 1000 * float(np.median(seconds))
            ratio = float(np.median(literal_ms / (np.array(seconds) / runs))) if step.startswith("supernet") else np.nan
            limit = 1000 * part["operations"].get(step, np.nan) / part["rate"]
            rows.append((label, dtype, step, median, median / runs, ratio, part["memory"].get(step), limit, median / limit))
    columns = ["model", "dtype", "step", "ms", "ms a run", "times as fast as literal", "peak MB", "limit ms", "times the limit"]
    return pd.DataFrame(rows, columns=columns)


def _one(model: Model, dtype: str, place: torch.device, batch: int, rounds: int, runs: int) -> dict:
    visits, operations = _visits(model, dtype, place, batch, runs)
    for visit in visits.values():  # graphs are captured, kernels chosen
        for number in range(6 if place.type == "cuda" else 1):
            visit(number)
    memory = {name: _peak(visit, place) for name, visit in visits.items()} if place.type == "cuda" else {}
    seconds = in_turns({name: _timed(visit, place) for name, visit in visits.items()}, rounds)
    joint = {name: TOGETHER if name.startswith("score") else runs for name in visits if "at once" in name}
    return {"seconds": seconds, "memory": memory, "runs": joint, "operations": operations, "rate": _rate(place, dtype, batch)}


def _visits(model: Model, dtype: str, place: torch.device, batch: int, runs: int) -> tuple[dict[str, Visit], dict[str, float]]:
    """Return the contestants, and the operations of the products of some of them."""
    recipe = replace(PAPER, batch_size=batch, dtype=dtype)
    images = torch.randn(batch, 3, model.image_size, model.image_size, device=place)
    labels = torch.randint(CLASSES, (batch,), device=place)
    data = TensorDataset(images, labels)
    base = model.make().to(place).eval()

    def supernets(number: int) -> Visit:
        nets = [adapt(model.make(), rank=recipe.rank).to(place) for _ in range(number)]
        masks = Masks(Space(nets[0].layer_names, recipe.ranks), recipe.rank, place)
        program = Program(nets, [data] * number, [recipe] * number, list(range(number)), masks)
        return lambda _: program.train_batch([list(range(batch))] * number)

    def loras(number: int) -> Visit:
        own = recipe.for_method("lora")
        nets = [METHODS["lora"](model.make(), rank=8).to(place) for _ in range(number)]
        program = Program(nets, [data] * number, [replace(own, dtype=dtype)] * number, list(range(number)), None)
        return lambda _: program.train_batch([list(range(batch))] * number)

    def plainly(net: nn.Module, sample=None) -> Visit:
        """The usual step: torch's autocast and AdamW as they come."""
        net = net.to(place).train()
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-4)

        def visit(number: int) -> None:
            if sample is not None:
                net.use(sample(np.random.default_rng(number)))
            optimizer.zero_grad()
            with autocast(dtype, place):
                loss = F.cross_entropy(net(images).float(), labels)
            loss.backward()
            optimizer.step()

        return visit

    def graphed(net: nn.Module) -> Visit:
        step = train_step(net.to(place).train(), recipe)
        return lambda _: step(images, labels)

    @torch.no_grad()
    def forward(_: int) -> Tensor:
        with autocast(dtype, place):
            return base(images)

    searched = adapt(model.make(), rank=recipe.rank).to(place)
    space = Space(searched.layer_names, recipe.ranks)
    val = TensorDataset(images[:1].expand(VALIDATION, -1, -1, -1), labels[:1].expand(VALIDATION))
    score, generator = Score(searched, val, dtype), np.random.default_rng(0)
    configs = [space.sample(generator) for _ in range(TOGETHER)]
    wrong = literal(model.make(), recipe.rank)
    visits = {
        "forward, frozen": forward,
        "supernet, literal": plainly(wrong, Space(wrong.layer_names, recipe.ranks).sample),
        "supernet": supernets(1),
        f"supernet, {runs} at once": supernets(runs),
        "LoRA": loras(1),
        f"LoRA, {runs} at once": loras(runs),
        "LoRA, peft": plainly(peft_lora(model.make(), 8)),
        "GLoRA, peft": plainly(peft_glora(model.make(), recipe.rank)),
        "full fine-tuning": graphed(METHODS["full"](model.make())),
        f"score, {TOGETHER} at once": lambda _: score.all(configs, space, TOGETHER),
    }
    one = float(batch * flops(base, model.image_size))
    # a dense gradient of every weight, as A in LoRA's form needs, is a third product beside the two of a step
    operations = {"forward, frozen": one, "supernet": 3 * one, f"supernet, {runs} at once": 3 * runs * one}
    operations |= {"LoRA": 2 * one, f"LoRA, {runs} at once": 2 * runs * one, "full fine-tuning": 3 * one}
    return visits, operations | {f"score, {TOGETHER} at once": one / batch * VALIDATION * TOGETHER}


def _timed(visit: Visit, place: torch.device) -> Visit:
    """Return the visit with an end that waits for the device."""

    def whole(number: int) -> None:
        visit(number)
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    return whole


def _peak(visit: Visit, place: torch.device) -> float:
    torch.cuda.reset_peak_memory_stats(place)
    visit(0)
    torch.cuda.synchronize(place)
    return torch.cuda.max_memory_allocated(place) / 2**20


def _rate(place: torch.device, dtype: str, batch: int, repeats: int = 20) -> float:
    """Return the operations a second of the device's own products, of square matrices, the best of some."""
    side = 8192 if place.type == "cuda" else 256
    a, b = (torch.randn(side, side, device=place).to(getattr(torch, dtype)) for _ in range(2))
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
