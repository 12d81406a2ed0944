"""What methods cost at inference: their operations, and one record of `throughput` and `storage` for all of them.

Operations are the same everywhere; times hold for one machine, and are compared as ratios to the base.
"""

import copy
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from glora_lib import backbones
from glora_lib.glora.model import fuse
from glora_lib.glora.space import Space
from glora_lib.measures.storage import storage
from glora_lib.methods import METHODS, NotFusable
from glora_lib.runs.grid import COMPUTE, Run
from glora_lib.runs.paths import REPORTED
from glora_lib.runs.profile import Profile
from glora_lib.runs.provenance import peak_memory, provenance
from glora_lib.runs.record import Record, RecordError, results
from glora_lib.training.device import device
from glora_lib.training.timing import throughput

EXPERIMENT, TASK, METHOD = "inference", "random_images", "all"
COPIES = ("linear", "full", "bitfit")  # methods that leave the model's layers as they are
OPTIONS = {"vpt_shallow": {"tokens": 60}, "vpt_deep": {"tokens": 60}}  # the prompts of Table 4; else the methods' defaults
BATCH_SIZES = (1, 4, 16)  # those of Table 4
CLASSES = 10  # of the heads here
PAPER_NAMES = {  # the rows of Table 4 -> our models
    "Full tuning": ("full",),
    "VPT": ("vpt_deep",),
    "Adapter": ("adapter",),
    "AdaptFormer": ("adaptformer",),
    "NOAH": ("noah",),
    "LoRA / GLoRA": ("lora fused", "glora fused"),
}


def variants(backbone: Callable[[], nn.Module], ranks: Sequence[int] = (8,), seed: int = 0) -> dict[str, nn.Module]:
    """Return "base", each method unfused under its name and, where it can be fused, as "<name> fused", in evaluation mode.

    `backbone` makes a new model at each call, so that no two of them share memory. GLoRA is a random subnet of `ranks`,
    and stores the largest. The values of what the methods add are those of their initialisation: no cost depends on them.
    """
    models = {"base": backbone()}
    for method, adapt in METHODS.items():
        options = {"rank": max(ranks)} if method == "glora" else OPTIONS.get(method, {})
        models[method] = net = adapt(backbone(), **options)
        if method == "glora":
            net.use(Space(net.layer_names, ranks).sample(random.Random(seed)))
        if method not in COPIES:
            with suppress(NotFusable):
                models[f"{method} fused"] = fuse(net)
    return {name: model.eval().requires_grad_(False) for name, model in models.items()}


def kind(name: str) -> str:
    """Return "base", "copy" (a model with the same layers), "fused" or "unfused" for a name of `variants`."""
    return "base" if name == "base" else "copy" if name in COPIES else "fused" if name.endswith(" fused") else "unfused"


def flops(model: nn.Module, image_size: int) -> int:
    """Return the floating-point operations of one image, counted by torch: a multiply-add counts twice.

    Counted are products of matrices and convolutions; additions, scales, norms and activations are not. Attention is computed
    step by step for it, since a fused kernel may escape the counter. Works on the meta device, without memory for the weights.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)  # the counter cannot follow views of trainable parameters
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    image = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops()


def summary(visits: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model and batch size: kind, median images_per_second, median ratio, its spread, and n rounds.

    `low` and `high` are the 5th and 95th percentile of the ratio over rounds. See `noise`.
    """
    groups = visits.groupby(["model", "batch_size"], sort=False)
    table = groups["images_per_second"].median().to_frame()
    ratio = groups["ratio"]
    table = table.assign(
        ratio=ratio.median(), low=ratio.quantile(0.05), high=ratio.quantile(0.95), n=ratio.size()
    ).reset_index()
    order = {name: number for number, name in enumerate(["base", *(n for m in METHODS for n in (m, f"{m} fused"))])}
    table = table.sort_values(["batch_size", "model"], key=lambda c: c.map(order) if c.name == "model" else c)
    return table.assign(kind=table["model"].map(kind)).reset_index(drop=True)


def noise(visits: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the noise by batch size, from the ratios of all copies of the base.

    Columns: low and high, between which 90 % of the ratios of single rounds lie; median_low and median_high, between which 95 %
    of the medians of as many rounds as were run lie (bootstrap, 2,000 samples); n ratios.
    """
    rng, rows = np.random.default_rng(seed), {}
    for batch, copies in visits[visits["model"].isin(COPIES)].groupby("batch_size"):
        values, rounds = copies["ratio"].to_numpy(), copies["round"].nunique()
        medians = np.median(rng.choice(values, (2000, rounds)), axis=1)
        rows[batch] = (*np.quantile(values, (0.05, 0.95)), *np.quantile(medians, (0.025, 0.975)), len(values))
    columns = ["low", "high", "median_low", "median_high", "n"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("batch_size")


def measure(profile: Profile, rounds: int = 21, seed: int = 0) -> Record:
    """Measure throughput, storage and switching with the profile's backbone in float32; return the record, not yet saved.

    Its `history` holds every visit ("throughput", the columns of `throughput` as lists) and what `storage` returns; `metrics`
    the median ratios, keyed "model/batch size". A ratio is no fraction: it can lie above 1.
    """
    place = device()
    plain = backbones.load_backbone(
        profile.backbone, classes=CLASSES, image_size=profile.image_size, weights=profile.weights
    )  # fmt: skip
    start = time.perf_counter()
    models = variants(lambda: copy.deepcopy(plain).to(place), profile.ranks, seed)
    visits = throughput(models, profile.image_size, BATCH_SIZES, rounds, seed)
    cost = {"seconds_throughput": time.perf_counter() - start}
    start = time.perf_counter()
    kept = storage(METHODS["glora"](plain, rank=profile.rank), ranks=profile.ranks, seed=seed)
    cost |= {"seconds_storage": time.perf_counter() - start, "peak_memory_mb": peak_memory()}
    ratios = {f"{row.model}/{row.batch_size}": row.ratio for row in summary(visits).itertuples()}
    settings = _settings(profile, rounds) | {
        "weights_sha256": backbones.weights_sha256(profile.backbone, profile.weights),
        "backbone_label": backbones.label(profile.backbone, profile.weights),
    }
    return Record(
        EXPERIMENT, TASK, METHOD, profile.name, seed, settings, {"ratio": ratios, "n_rounds": rounds}, config=None,
        selected_on="nothing", cost=cost, provenance=provenance(place=place),
        history={"throughput": visits.to_dict("list")} | kept,
    )  # fmt: skip


def recorded(profile: Profile, compute: str = "missing", rounds: int = 21, seed: int = 0) -> Record:
    """Return the record of a profile, measured first if there is none with these settings ("missing") or always ("all").

    Raises RecordError if it is missing and must not be measured ("none"), and for a record of uncommitted code as `results`.
    """
    if compute not in COMPUTE:
        raise ValueError(f"compute {compute!r} is not known; valid: {', '.join(COMPUTE)}")
    if compute == "all" or (compute == "missing" and not _exists(profile, rounds, seed)):
        measure(profile, rounds, seed).save()
    if not _exists(profile, rounds, seed):
        raise RecordError(f'no record {_run(profile, seed).path.name} with these settings; run with compute="missing"')
    table = results(EXPERIMENT, profile.name)
    return table[(table["method"] == METHOD) & (table["seed"] == seed)]["record"].item()


def reported() -> pd.DataFrame:
    """Return Table 4 of the paper (NVIDIA 3090, ViT-B/16), a row for each of our models that it has.

    Columns: model, extra_params (millions), extra_flops (G), throughput_bs1, throughput_bs4, throughput_bs16 (images/s) and
    ratio_bs1, ratio_bs4, ratio_bs16, those divided by the row "Full tuning".
    """
    entries = pd.read_csv(REPORTED / "table4_inference.csv")
    table = entries.pivot(index="method", columns="metric", values="value").astype(float)
    for batch in BATCH_SIZES:
        table[f"ratio_bs{batch}"] = table[f"throughput_bs{batch}"] / table.loc["Full tuning", f"throughput_bs{batch}"]
    rows = [table.loc[method].rename(model) for method, models in PAPER_NAMES.items() for model in models]
    measured = [f"{what}_bs{batch}" for what in ("throughput", "ratio") for batch in BATCH_SIZES]
    return pd.DataFrame(rows)[["extra_params", "extra_flops", *measured]].rename_axis(index="model", columns=None).reset_index()


def _settings(profile: Profile, rounds: int) -> dict:
    """What the record depends on as plain JSON types: of the profile only what matters to inference."""
    names = ("backbone", "weights", "image_size", "ranks")
    return {name: profile.settings()[name] for name in names} | {
        "rounds": rounds, "batch_sizes": list(BATCH_SIZES), "classes": CLASSES, "options": OPTIONS,
    }  # fmt: skip


def _run(profile: Profile, seed: int) -> Run:
    """The name of the record, in the terms of the grid."""
    return Run(EXPERIMENT, TASK, METHOD, profile, seed)


def _exists(profile: Profile, rounds: int, seed: int) -> bool:
    try:
        settings = Record.load(_run(profile, seed).path).settings
    except RecordError:
        return False
    return settings.items() >= _settings(profile, rounds).items()
