"""Runs and their records: what is missing is computed, what exists with the same settings is kept."""

import copy
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from joblib import Parallel, delayed

from glora_lib import backbones
from glora_lib.data import load_task
from glora_lib.methods import METHODS, NotFusable, trainable_parameters
from glora_lib.methods.noah import search as noah_search
from glora_lib.methods.probes import features
from glora_lib.model import AdaptedModel, fuse
from glora_lib.paths import CACHE
from glora_lib.profile import Profile
from glora_lib.provenance import commit, peak_memory, provenance
from glora_lib.record import Record, RecordError, folder
from glora_lib.search import Found, evolve, random_search
from glora_lib.space import Space, to_json
from glora_lib.train import accuracy, train

COMPUTE = ("none", "missing", "all")
RANDOM_SUBNETS = 3  # random subnets that are measured on test beside the one that was found


@dataclass(frozen=True)
class Run:
    """One run of the grid. `label` names it in tables where settings differ from the method's own, else it is the method.

    Methods: every name in `METHODS`, with the method's defaults; supernet (trained, not searched), glora (searched by
    evolution) and glora_random (the same supernet, searched at random with the same number of evaluations).
    """

    experiment: str
    task: str
    method: str
    profile: Profile
    seed: int = 0
    label: str = ""

    @property
    def recipe(self) -> Profile:
        """The profile as the method uses it."""
        return self.profile.for_method(self.method)

    @property
    def id(self) -> str:
        return f"{self.task}--{self.label or self.method}--{self.profile.name}--s{self.seed}"

    @property
    def path(self) -> Path:
        """Where the run's record lies."""
        return folder(self.experiment, self.profile.name) / f"{self.id}.json"

    def exists(self) -> bool:
        """Whether a whole record with these settings exists. One that cannot be read counts as missing."""
        try:
            settings = Record.load(self.path).settings
        except RecordError:
            return False
        return {name: settings.get(name) for name in self.recipe.settings()} == self.recipe.settings()


def fill(runs: Iterable[Run], compute: str = "missing", workers: int = 1) -> list[Run]:
    """Compute the runs that have no record ("missing"), all of them ("all") or not one ("none"); return those still without.

    Each record is written as soon as its run ends, and an interrupted run goes on from its last epoch or generation. With
    several workers, processes share the processor's threads out.
    """
    if compute not in COMPUTE:
        raise ValueError(f"compute {compute!r} is not known; valid: {', '.join(COMPUTE)}")
    runs = list(runs)
    wanted = [run for run in runs if compute == "all" or (compute == "missing" and not run.exists())]
    if compute == "all":
        for run in wanted:
            for stage in (run, replace(run, label="supernet")):
                shutil.rmtree(_cache(stage, run.recipe, "state").parent, ignore_errors=True)
    if workers == 1:
        for run in wanted:
            execute(run).save()
    else:
        threads = max(1, (os.cpu_count() or 1) // workers)
        Parallel(n_jobs=workers)(delayed(_execute_and_save)(run, threads) for run in wanted)
    return [run for run in runs if not run.exists()]


def execute(run: Run) -> Record:
    """Train, search, fuse and measure one run; return its record, not yet saved."""
    if run.method not in STAGES:
        raise ValueError(f"method {run.method!r} cannot be run here; valid: {', '.join(STAGES)}")
    recipe, task = run.recipe, load_task(run.task, run.profile)
    model = backbones.load_backbone(
        recipe.backbone, classes=task.classes, image_size=recipe.image_size, weights=recipe.weights,
        drop_path=recipe.drop_path, seed=run.seed,
    )  # fmt: skip
    torch.manual_seed(run.seed)  # for what adapting draws: a run does not depend on those before it in this process
    outcome = STAGES[run.method](run, recipe, model, task)
    settings = recipe.settings() | {
        "weights_sha256": backbones.weights_sha256(recipe.backbone, recipe.weights),
        "backbone_label": backbones.label(recipe.backbone, recipe.weights),
        "task_sha256": task.sha256,
        "stands_for": task.stands_for,
        "group": task.group,
    }
    metrics = {"n_train": len(task.train), "n_val": len(task.val), "n_test": len(task.test)} | outcome.pop("metrics")
    cost = outcome.pop("cost") | {"peak_memory_mb": peak_memory()}
    return Record(
        run.experiment, run.task, run.label or run.method, run.profile.name, run.seed, settings, metrics,
        cost=cost, provenance=provenance(recipe.dtype), **outcome,
    )  # fmt: skip


def _probe(run: Run, recipe: Profile, model, task) -> dict:
    """Train the head on features that are computed once."""
    METHODS["linear"](model)
    history = train(model.get_classifier(), features(model, task.train), recipe, seed=run.seed)
    return {
        "metrics": _measure(model, task, recipe),
        "config": None,
        "selected_on": "nothing",
        "cost": {"seconds_train": _seconds(history)} | _sizes(model, 0),
    }


def _fixed(run: Run, recipe: Profile, model, task) -> dict:
    """Train one method with nothing to choose; what is measured is the fused model, where the method can be fused."""
    net = METHODS[run.method](model)
    history = train(net, task.train, recipe, seed=run.seed, checkpoint=_cache(run, recipe, "train.pt"))
    size = _sizes(net, trainable_parameters(net))
    try:
        plain = fuse(net)
    except NotFusable:
        plain, size["merged"] = net, size["stored"]
    return {
        "metrics": _measure(plain, task, recipe),
        "config": to_json(net.config) if isinstance(net, AdaptedModel) else None,
        "selected_on": "nothing",
        "cost": {"seconds_train": _seconds(history)} | size,
        "history": {"train": history},
    }


def _supernet(run: Run, recipe: Profile, model, task) -> dict:
    """Train the supernet and, but for the method "supernet", search it on val and fuse what was found."""
    net = METHODS["glora"](model, rank=recipe.rank, scale_broadcast=recipe.scale_broadcast)
    space = Space(net.layer_names, recipe.ranks)
    rng = random.Random(f"watch {run.seed}")
    watched = [space.sample(rng) for _ in range(RANDOM_SUBNETS)]

    def score(config) -> float:
        return accuracy(net.use(config), task.val, dtype=recipe.dtype)

    def watch(epoch: int) -> dict:
        every = max(1, recipe.epochs // 6)
        return {"random_val": [score(config) for config in watched]} if (epoch + 1) % every == 0 else {}

    # searches of one supernet share its checkpoint, which a finished training leaves behind
    checkpoint = _cache(replace(run, label="supernet"), recipe, "train.pt")
    curves = watch if run.method == "supernet" else None
    history = {"train": train(net, task.train, recipe, sample=space.sample, seed=run.seed, checkpoint=checkpoint, watch=curves)}
    cost = {"seconds_train": _seconds(history["train"])}
    metrics = {"random_val": [score(config) for config in watched], "n_random": RANDOM_SUBNETS}
    if run.method == "supernet":
        return {"metrics": metrics, "config": None, "selected_on": "nothing", "cost": cost | _sizes(net, 0), "history": history}

    start = time.perf_counter()
    found = _search(run, recipe, space, score, net.shapes)
    cost["seconds_search"] = time.perf_counter() - start
    history["search"] = [
        {"val": [e.score for e in found.generation(g)], "parameters": [e.parameters for e in found.generation(g)]}
        for g in range(1 + max(e.generation for e in found.ranking))
    ]
    metrics |= _measure(fuse(net.use(found.best)), task, recipe) | {"evaluations": len(found.ranking), "ties": found.ties}
    metrics["random_test"] = [accuracy(net.use(config), task.test, dtype=recipe.dtype) for config in watched]
    return {
        "metrics": metrics,
        "config": to_json(found.best),
        "selected_on": "val",
        "cost": cost | _sizes(net, space.parameters(found.best, net.shapes)),
        "history": history,
    }


def _search(run: Run, recipe: Profile, space: Space, score, shapes) -> Found:
    checkpoint = _cache(run, recipe, "search.json")
    if run.method == "glora_random":
        budget = recipe.population * (1 + recipe.generations)
        return random_search(
            space, score=score, budget=budget, seed=run.seed, shapes=shapes, limit=recipe.limit, checkpoint=checkpoint
        )
    return evolve(space, score=score, seed=run.seed, shapes=shapes, checkpoint=checkpoint, **recipe.evolution)


def _noah(run: Run, recipe: Profile, model, task) -> dict:
    """Train NOAH's supernet, search it on val, and train what was found once more, alone and with the baselines' recipe.

    The authors retrain on training and validation images together; here the validation images stay out.
    """
    net = METHODS["noah"](copy.deepcopy(model))
    history = {
        "train": train(net, task.train, recipe, sample=net.sample, seed=run.seed, checkpoint=_cache(run, recipe, "train.pt"))
    }
    start = time.perf_counter()
    settings = {key: value for key, value in recipe.evolution.items() if key not in ("probability", "limit")}  # NOAH's own
    ranking = noah_search(
        net, lambda config: accuracy(net.use(config), task.val, dtype=recipe.dtype), seed=run.seed, **settings
    )
    best, cost = ranking[0][2], {"seconds_search": time.perf_counter() - start}
    again = run.profile.for_method("lora")
    alone = METHODS["noah"](model, config=best)
    history["retrain"] = train(alone, task.train, again, seed=run.seed, checkpoint=_cache(run, recipe, "retrain.pt"))
    cost["seconds_train"] = _seconds(history["train"]) + _seconds(history["retrain"])
    sizes = _sizes(net, trainable_parameters(alone))  # trained: the supernet
    return {
        "metrics": _measure(alone, task, recipe) | {"evaluations": len(ranking)},
        "config": {part: list(widths) for part, widths in best.items()},
        "selected_on": "val",
        "cost": cost | sizes | {"merged": sizes["stored"]},
        "history": history,
    }


STAGES = {name: _fixed for name in METHODS if name != "glora"} | {"linear": _probe, "noah": _noah}
STAGES |= dict.fromkeys(("supernet", "glora", "glora_random"), _supernet)


def _measure(plain, task, recipe: Profile) -> dict:
    return {
        "val": accuracy(plain, task.val, dtype=recipe.dtype),
        "test": accuracy(plain, task.test, dtype=recipe.dtype),
    }


def _sizes(net, stored: int) -> dict:
    """Parameters trained and stored, head excluded, the head's own, and what the fused model has beyond the backbone."""
    trained = {name: p.numel() for name, p in net.named_parameters() if p.requires_grad}
    head = sum(number for name, number in trained.items() if "head" in name.split("."))
    return {"trained": sum(trained.values()) - head, "stored": stored, "merged": 0, "head": head}


def _seconds(history: list[dict]) -> float:
    return sum(epoch["seconds"] for epoch in history)


def _cache(run: Run, recipe: Profile, name: str) -> Path:
    """Return where an unfinished stage keeps its state: a folder for this run, with these settings and this code."""
    settings = recipe.settings() | {"seed": run.seed, "code": commit()}
    if run.label == "supernet":  # what the search is set to does not matter to the training
        settings = {key: value for key, value in settings.items() if key not in recipe.evolution}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return CACHE / "runs" / f"{run.task}--{run.label or run.method}--s{run.seed}--{digest}" / name


def _execute_and_save(run: Run, threads: int) -> None:
    torch.set_num_threads(threads)
    execute(run).save()
