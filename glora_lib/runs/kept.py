"""Trained models that are kept: the adapter of a run, taken from the state that its training left, and put to use again."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from glora_lib import backbones
from glora_lib.data import load_task
from glora_lib.glora.model import AdaptedModel, fuse
from glora_lib.glora.space import from_json
from glora_lib.methods import METHODS, NotFusable
from glora_lib.methods.adapter_file import restore, save_adapter
from glora_lib.runs.grid import fill
from glora_lib.runs.paths import ROOT
from glora_lib.runs.profile import Profile
from glora_lib.runs.provenance import provenance
from glora_lib.runs.record import Record
from glora_lib.runs.run import Run

SEARCHED = ("glora", "glora_random", "glora_oracle")
KEPT = (*SEARCHED, *(name for name in METHODS if name not in ("glora", "linear", "full", "noah")))


def path(run: Run) -> Path:
    """Return where the adapter of a run is kept: `adapters/` beside the profile's results; its description lies beside it."""
    return (ROOT / run.profile.results).parent / "adapters" / run.experiment / f"{run.id}.safetensors"


def runs_of(experiment: str, profile: Profile) -> list[Run]:
    """Return the runs of an experiment whose adapters are kept, by name."""
    folder = path(Run(experiment, "", "", profile)).parent
    names = (file.stem.split("--") for file in sorted(folder.glob(f"*--{profile.name}--s*.safetensors")))
    return [Run(experiment, task, method, profile, int(seed[1:])) for task, method, _, seed in names]


def ensure(runs: Iterable[Run], compute: str = "missing") -> None:
    """Keep the adapters of runs that lack one, or of all ("all"), after computing what `grid.fill` would.

    A run whose record is there, but whose training left nothing any more, is computed again unless `compute` is "none".
    """
    for run in runs:
        fill([run], compute)
        if compute == "all" or not path(run).exists():
            if compute != "none" and not _checkpoint(run).exists():
                fill([run], "all")
            keep(run)


def keep(run: Run) -> Path:
    """Write the adapter of a run that has a record, from the checkpoint of its training; return its path.

    The configuration is the record's. Raises FileNotFoundError when the checkpoint is not there any more, and ValueError for
    a run that leaves no adapter: the linear probe and full fine-tuning, a supernet that was not searched, and NOAH, whose
    second training has a checkpoint of its own.
    """
    if run.method not in KEPT:
        raise ValueError(f"the result of {run.method!r} cannot be kept as an adapter; valid: {', '.join(KEPT)}")
    record, recipe, checkpoint = Record.load(run.path), run.recipe, _checkpoint(run)
    if not checkpoint.exists():
        raise FileNotFoundError(f"{run.id} left no checkpoint at {checkpoint}; compute the run again")
    options, method = recipe.options, run.method
    if method in SEARCHED:
        options, method = {"rank": recipe.rank, "scale_broadcast": recipe.scale_broadcast} | options, "glora"
    net = METHODS[method](plain_model(run, load_task(run.task, run.profile).classes), **options)
    trained = torch.load(checkpoint, map_location="cpu", weights_only=True)["parameters"]
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        for name, tensor in trained.items():
            parameters[name].copy_(tensor)
    if isinstance(net, AdaptedModel):
        net.use(from_json(record.config))
    return save_adapter(net, path(run), backbone=record.settings["backbone_label"], method=method, options=options)


def _checkpoint(run: Run) -> Path:
    """Where the training of a run with a record left its state; searches share their supernet's."""
    trained, code = run.supernet if run.method in SEARCHED else run, Record.load(run.path).provenance
    return trained.state_of((code["commit"], code["dirty"])) / "train.pt"


def load(run: Run) -> nn.Module:
    """Return the kept model of a run, fused where its method can be. Raises AdapterError if it is missing or damaged."""
    net = restore(plain_model(run, load_task(run.task, run.profile).classes), path(run))
    try:
        return fuse(net).eval()
    except NotFusable:
        return net


def allowed(run: Run) -> int:
    """Return by how many images the accuracy of a kept model, on this processor, may differ from its record's: 0 if that is of
    the same processor, else 3.

    Elsewhere sums are rounded otherwise, which decides images whose two best classes are nearly level.
    """
    here, there = provenance(), {"device": "cpu"} | Record.load(run.path).provenance
    return 0 if all(here[name] == there.get(name) for name in ("processor", "capability", "device")) else 3


def plain_model(run: Run, classes: int) -> nn.Module:
    """Return the backbone that the run started from."""
    recipe = run.recipe
    return backbones.load_backbone(
        recipe.backbone, classes=classes, image_size=recipe.image_size, weights=recipe.weights, seed=run.seed
    )
