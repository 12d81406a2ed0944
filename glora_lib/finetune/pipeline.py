"""From a folder of pictures to a plain model: split, early numbers, training, search, fusion, test, export.

Every stage leaves its result in the output folder, so that a run that was killed goes on where it was.
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from glora_lib import backbones
from glora_lib.backbones import PACKAGED
from glora_lib.backbones.efficientnet import EFFICIENTNET
from glora_lib.data.own import Own, load_own
from glora_lib.finetune.early import early_numbers
from glora_lib.finetune.export import onnx, write_model
from glora_lib.finetune.progress import Progress, expected
from glora_lib.finetune.report import Report, measure
from glora_lib.glora.layer import GLoRALinear, check_whole
from glora_lib.glora.model import AdaptedModel, fuse
from glora_lib.glora.score import Score
from glora_lib.glora.search import evolve
from glora_lib.glora.space import Choice, Space
from glora_lib.glora.supernet import train_supernet
from glora_lib.measures.sizes import NOT_FUSABLE
from glora_lib.methods import METHODS, trainable_parameters
from glora_lib.methods.adapter_file import save_adapter
from glora_lib.runs.paths import OUT
from glora_lib.runs.profile import Profile
from glora_lib.runs.profiles import PROFILES
from glora_lib.runs.provenance import provenance
from glora_lib.training.device import device
from glora_lib.training.files import replacing
from glora_lib.training.head import head_of
from glora_lib.training.loop import train

FUSABLE = [method for method in METHODS if method not in NOT_FUSABLE]
# what two cores do in minutes, with 1,000 pictures of 42 pixels; most of it is training, which limits a supernet
EPOCHS = 12
SEARCH = {"population": 30, "parents": 6, "mutations": 15, "crossovers": 15, "generations": 1}


class FinetuneError(ValueError):
    """Something that cannot be done with this folder, or in this output folder; the message says what mends it."""


def finetune(
    folder: str | Path,
    *,
    backbone: str = PACKAGED,
    method: str = "glora",
    out: str | Path | None = None,
    weights: str = "",
    image_size: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Report:
    """Fine-tune a backbone on pictures of your own and return the report; files go to `out`.

    The recipe is the cpu profile's, with fewer epochs and a smaller search. What is chosen is chosen on val; test is looked at
    once, at the end. In `out`: model.safetensors and model.onnx, the fused model; adapter.safetensors; load_it.py, which uses
    the model without this library; report.json. Called again, it goes on where it was, or returns the report of a finished run.

    Args:
        folder: class folders, a .csv, or lists as in VTAB: see `data.own`.
        backbone, weights: as for `load_backbone`; weights may be "hub" where there is a network.
        method: one that fuses into the backbone's weights; GLoRA is searched on val, and acts on the convolutions of a
            backbone that has no linear layer beside its head.
        out: a folder; out/finetune/<name of the pictures> by default.
        image_size: pixels a side; 42 for the packaged backbone, others' own size.
        epochs: of training.
        say: is given a line at a time: what was found, how long it will take, how far it is.

    Raises DataError, BackboneError, TrainingError, and FinetuneError for a method that leaves no plain model and for an output
    folder of another run.
    """
    device()  # one that is asked for and missing is an error before anything is read
    if method not in FUSABLE:
        raise FinetuneError(f"{method!r} leaves no plain model: it cannot be fused, or is none; valid: {', '.join(FUSABLE)}")
    if backbone == EFFICIENTNET:
        raise FinetuneError(f"{backbone!r} has a first layer of its own, which timm alone does not have; take a timm name")
    for name, value in (("epochs", epochs), ("image_size", image_size)):
        if value is not None:
            check_whole(value, name)
    recipe = replace(PROFILES["cpu"].for_method(method), **SEARCH, epochs=epochs or EPOCHS)
    if method == "linear":
        recipe = replace(PROFILES["cpu"].for_method(method), **({"epochs": epochs} if epochs else {}))
    recipe = replace(recipe, backbone=backbone, weights=weights, image_size=image_size or _own_size(backbone))
    own = load_own(folder, recipe.image_size, seed)
    out = Path(out) if out is not None else OUT / "finetune" / own.task.name
    settings = recipe.settings() | {"method": method, "seed": seed, "pictures": own.task.sha256}
    refuse_another(out, settings)
    if (out / "report.json").exists():
        return Report.load(out / "report.json")
    _introduce(own, say)

    start = time.perf_counter()
    model = backbones.load_backbone(
        backbone, classes=own.task.classes, image_size=recipe.image_size, weights=weights, seed=seed
    ).to(device())  # fmt: skip
    kept(out / "settings.json", lambda: settings)
    early = kept(out / "state" / "early.json", lambda: early_numbers(model, own.task, recipe, seed))
    say("early: " + ", ".join(f"{name} {value:.1%}" for name, value in early.items()))

    torch.manual_seed(seed)
    options = {"gain_bias": False} if method == "glora" else {}  # a plain timm model has no place for more biases
    options |= {"rank": recipe.rank, "scale_broadcast": recipe.scale_broadcast} if method == "glora" else recipe.options
    options |= {"layers": ["conv"]} if method == "glora" and _without_linear(model) else {}
    net = METHODS[method](model, **options)
    say(expected(net, own.task, recipe))
    progress, prepared = Progress(recipe.epochs, say), time.perf_counter() - start
    space = Space(net.layer_names, recipe.ranks, net.kinds) if isinstance(net, AdaptedModel) else None
    going_on = {"seed": seed, "checkpoint": out / "state" / "train.pt", "watch": progress}
    if space is None:
        history = train(net, own.task.train, recipe, **going_on)
    else:
        history = train_supernet(net, space, own.task.train, recipe, **going_on)
    seconds = {"train": sum(epoch["seconds"] for epoch in history)}
    if space is not None:
        found, seconds["search"] = _search(net, space, own, recipe, out, seed, say)
        net.use(found)
    finished = time.perf_counter()
    plain = fuse(net).eval()
    adapter = save_adapter(net, out / "adapter", backbone=backbones.label(backbone, weights), method=method, options=options)
    alone = write_model(plain, own, out, recipe.image_size)
    sizes = {
        "trained": trainable_parameters(net),
        "stored": space.parameters(net.config, net.shapes) if space else trainable_parameters(net),
        "model": sum(p.numel() for p in plain.parameters()),
        "adapter_bytes": adapter.stat().st_size,
        "model_bytes": (out / "model.safetensors").stat().st_size,
    }
    written = {"model": str(out / "model.safetensors"), "onnx": onnx(alone, own, out / "model.onnx")}
    written |= {"adapter": str(adapter), "use it": str(out / "load_it.py")}
    # training and search tell the seconds of all calls, if they were interrupted
    seconds["all"] = prepared + sum(seconds.values()) + time.perf_counter() - finished
    origin = provenance(recipe.dtype, next(net.parameters()).device)
    known = {"early": early, "sizes": sizes, "seconds": seconds, "provenance": origin, "written": written}
    report = measure(alone, own, method=method, seed=seed, **known)
    report.save(out / "report.json")
    return report


def refuse_another(out: Path, settings: dict) -> None:
    """Raise a FinetuneError that names what differs, if `out` holds a run of other settings or pictures."""
    if not (out / "settings.json").exists():
        return
    try:
        there = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    except ValueError:  # damaged, and left as it is
        there = {}
    mine = json.loads(json.dumps(settings))
    changed = {name: (there.get(name), mine.get(name)) for name in there | mine if there.get(name) != mine.get(name)}
    if changed:
        raise FinetuneError(f"{out} holds another run, (there, here): {changed}; name another folder, or delete it")


def kept(path: Path, compute: Callable[[], dict]) -> dict:
    """Return what is in a JSON file; where it is not there or damaged, compute it and write it down."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = compute()
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return content


def _introduce(own: Own, say: Callable[[str], None]) -> None:
    task = own.task
    parts = ", ".join(f"{len(getattr(task, part)):,} {part}" for part in ("train", "val", "test"))
    say(f"{task.name}: {task.classes} classes, {parts}")
    for note in task.notes:
        say(f"note: {note}")


def _own_size(backbone: str) -> int:
    if backbone == PACKAGED:
        return PROFILES["cpu"].image_size
    import timm

    if not timm.is_model(backbone):
        return 224  # loading says which names there are
    return timm.models.get_pretrained_cfg(backbone, allow_unregistered=True).input_size[-1]


def _without_linear(model: nn.Module) -> bool:
    heads = {id(module) for part in head_of(model).values() for module in part.modules()}
    return not any(GLoRALinear.suits(module) and id(module) not in heads for module in model.modules())


def _search(
    net: nn.Module, space: Space, own: Own, recipe: Profile, out: Path, seed: int, say
) -> tuple[dict[str, Choice], float]:
    """Return the best configuration on val, and the seconds that the search took."""
    start, score = time.perf_counter(), Score(net, own.task.val, recipe.dtype)
    total, done = recipe.population * (1 + recipe.generations), 0

    def counted(config, *floor):
        nonlocal done
        done += 1
        if done % recipe.population == 0:
            left = (time.perf_counter() - start) / done * (total - done)
            say(f"search: {done} of {total} subnets, at most {left:.0f} s left")  # fewer where a search goes on
        return score(config, *floor)

    found = evolve(
        space, score=counted, seed=seed, shapes=net.shapes, checkpoint=out / "state" / "search.json", stop_early=True,
        belongs=score.belongs, **recipe.evolution,
    )  # fmt: skip
    level = f"{found.ties - 1} others are level with it"
    say(f"search: the best subnet of {len(found.ranking)} has {found.score:.1%} on val, {level}")
    return found.best, found.seconds
