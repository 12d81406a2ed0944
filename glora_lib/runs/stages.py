"""What a run does: train, search, fuse, measure. One function a kind of method; `grid` decides what runs and what is kept.

Each takes the run, its recipe, a fresh backbone and the task, and returns parts of the record (metrics, config, selected_on,
cost, history) and the model that was measured, fused where it can be; for a supernet that is the supernet. What is adapted on
the processor, so that it starts alike everywhere, is trained and measured on the device.
"""

import copy
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from glora_lib.data.task import Images
from glora_lib.glora.model import AdaptedModel, fuse
from glora_lib.glora.score import Score
from glora_lib.glora.search import Found, evolve, random_search
from glora_lib.glora.space import Choice, Space, from_json, to_json
from glora_lib.glora.supernet import train_supernet
from glora_lib.methods import METHODS, NotFusable, trainable_parameters
from glora_lib.methods.noah import search as noah_search
from glora_lib.methods.probes import features
from glora_lib.runs.profile import Profile
from glora_lib.runs.run import Run
from glora_lib.training.checkpoint import belonging
from glora_lib.training.device import device, suited
from glora_lib.training.head import head_of, head_parameters
from glora_lib.training.loop import accuracy, train
from glora_lib.training.steps import one_cycle

Outcome = tuple[dict, nn.Module]
RANDOM_SUBNETS = 3  # random subnets that are measured on test beside the one that was found
FITTED: dict[str, dict] = {}  # the head that `_fit_head` fitted last, by what it depends on
# whose training is one supernet's, for all of them
SUPERNETS = ("glora", "glora_random", "glora_largest", "glora_oracle", "glora_retrained")


def here(recipe: Profile) -> Profile:
    """Return the recipe in the number format that this device computes in."""
    return replace(recipe, dtype=suited(recipe.dtype, device()))


def adapted(run: Run, recipe: Profile, model: nn.Module) -> nn.Module:
    """Return the backbone as the run's method adapts it, on the device. What that draws, it draws on the processor."""
    if run.method in (*SUPERNETS, "supernet", "glora_fixed"):
        net = METHODS["glora"](model, rank=recipe.rank, scale_broadcast=recipe.scale_broadcast, **recipe.options)
        if run.method == "glora_fixed":
            net.use(Space(net.layer_names, recipe.ranks, net.kinds).uniform(largest(recipe)))
        return net.to(device())
    return METHODS[run.method](model, **recipe.options).to(device())


def training_state(run: Run) -> Path:
    """Return where the training of a run keeps its state; searches of one supernet share it."""
    return (run.supernet if run.method in SUPERNETS else run).state("train.pt")


def largest(recipe: Profile) -> Choice:
    """Return the choice with most parameters: A, B and C as LoRA of the largest rank, D and E as vectors.

    Support tensors that the recipe leaves out are none.
    """
    lora = f"lora{recipe.rank}"
    return replace(Choice(lora, lora, lora, "vector", "vector"), **dict.fromkeys(recipe.left_out, "none"))


def probe(run: Run, recipe: Profile, model, task) -> Outcome:
    """Train the head on features that are computed once."""
    adapted(run, recipe, model)
    if len(head_of(model)) != 1 or not hasattr(model, "forward_head"):  # features of one head are what timm's models give
        return _train_alone(model, run, recipe, task)
    history = train(model.get_classifier(), features(model, task.train), recipe, seed=run.seed)
    parts = {
        "metrics": _measure(model, task, recipe),
        "config": None,
        "selected_on": "nothing",
        "cost": {"seconds_train": _seconds(history)} | _sizes(model, 0),
    }
    return parts, model


def fixed(run: Run, recipe: Profile, model, task) -> Outcome:
    """Train one method with nothing to choose; what is measured is the fused model, where the method can be fused.

    By the recipe's `one_cycle`, where it has one: `head_epochs`, for how many a linear probe fits the head first; `head`,
    "frozen" for one that is not trained after that; `test`, how many of the test images are measured.
    """
    if "head_epochs" in recipe.one_cycle:
        _fit_head(run, recipe, model, task)
    net = adapted(run, recipe, model)
    if recipe.one_cycle.get("head") == "frozen":
        for parameter in head_parameters(net).values():
            parameter.requires_grad_(False)
    if "test" in recipe.one_cycle:
        kept = slice(0, recipe.one_cycle["test"])
        task = replace(task, test=Images(task.test.raw[kept], task.test.labels[kept]))
    return _train_alone(net, run, recipe, task)


def supernet(run: Run, recipe: Profile, model, task) -> Outcome:
    """Train the supernet and watch three random subnets on val while it learns."""
    net, space, score, watched = _prepare(run, recipe, model, task)

    def watch(epoch: int) -> dict:
        every = max(1, recipe.epochs // 6)
        return {"random_val": [score(config) for config in watched]} if (epoch + 1) % every == 0 else {}

    checkpoint = run.state("watched.pt")  # not the one that searches share: its history has no curves
    history = train_supernet(net, space, task.train, recipe, seed=run.seed, checkpoint=checkpoint, watch=watch)
    parts = {
        "metrics": {"random_val": [score(config) for config in watched], "n_random": RANDOM_SUBNETS},
        "config": None,
        "selected_on": "nothing",
        "cost": {"seconds_train": _seconds(history)} | _sizes(net, 0),
        "history": {"train": history},
    }
    return parts, net


def glora(run: Run, recipe: Profile, model, task) -> Outcome:
    """Train the supernet, search it on val by evolution, fuse what was found."""
    return _searched(run, recipe, model, task, evolve, **recipe.evolution)


def glora_random(run: Run, recipe: Profile, model, task) -> Outcome:
    """Search the same supernet at random, with as many evaluations as the evolution."""
    budget = recipe.population * (1 + recipe.generations)
    return _searched(run, recipe, model, task, random_search, budget=budget, limit=recipe.limit)


def glora_largest(run: Run, recipe: Profile, model, task) -> Outcome:
    """Train the same supernet and measure its largest subnet, without a search."""
    net, space, *_ = _prepare(run, recipe, model, task)
    history = train(net, task.train, recipe, sample=space.sample, seed=run.seed, checkpoint=training_state(run))
    config = space.uniform(largest(recipe))
    plain = fuse(net.use(config))
    parts = {
        "metrics": _measure(plain, task, recipe),
        "config": to_json(config),
        "selected_on": "nothing",
        "cost": {"seconds_train": _seconds(history)} | _sizes(net, space.parameters(config, net.shapes)),
        "history": {"train": history},
    }
    return parts, plain


def glora_oracle(run: Run, recipe: Profile, model, task) -> Outcome:
    """Search the same supernet on the test images, as the authors' code was first published: an upper bound, never a result."""
    return _searched(run, recipe, model, task, evolve, split="test", **recipe.evolution)


def glora_retrained(run: Run, recipe: Profile, model, task) -> Outcome:
    """Search as `glora` does, then train what was found once more: alone, from the backbone, with the supernet's recipe.

    What is measured is the second training; the metrics "inherited_val" and "inherited_test" are the first one's.
    """
    fresh = copy.deepcopy(model)
    parts, _ = glora(run, recipe, model, task)
    torch.manual_seed(run.seed)  # support tensors begin as the supernet's began
    net = adapted(run, recipe, fresh).use(from_json(parts["config"]))
    history = train(net, task.train, recipe, seed=run.seed, checkpoint=run.state("retrain.pt"))
    plain = fuse(net)
    inherited = {f"inherited_{split}": parts["metrics"][split] for split in ("val", "test")}
    parts["metrics"] |= inherited | _measure(plain, task, recipe)
    parts["cost"]["seconds_train"] += _seconds(history)
    parts["history"]["retrain"] = history
    return parts, plain


def noah(run: Run, recipe: Profile, model, task) -> Outcome:
    """Train NOAH's supernet, search it on val, and train what was found once more, alone and with the baselines' recipe.

    The authors retrain on training and validation images together; here the validation images stay out.
    """
    net = METHODS["noah"](copy.deepcopy(model), **recipe.options).to(device())
    history = {"train": train(net, task.train, recipe, sample=net.sample, seed=run.seed, checkpoint=run.state("train.pt"))}
    start = time.perf_counter()
    settings = {key: value for key, value in recipe.evolution.items() if key not in ("probability", "limit")}  # NOAH's own
    ranking = noah_search(
        net, lambda config: accuracy(net.use(config), task.val, dtype=recipe.dtype), seed=run.seed, **settings
    )
    best, cost = ranking[0][2], {"seconds_search": time.perf_counter() - start}
    again = here(run.profile.for_method("lora"))
    alone = METHODS["noah"](model, config=best, **recipe.options).to(device())
    history["retrain"] = train(alone, task.train, again, seed=run.seed, checkpoint=run.state("retrain.pt"))
    cost["seconds_train"] = _seconds(history["train"]) + _seconds(history["retrain"])
    sizes = _sizes(net, trainable_parameters(alone))  # trained: the supernet
    parts = {
        "metrics": _measure(alone, task, recipe) | {"evaluations": len(ranking)},
        "config": {part: list(widths) for part, widths in best.items()},
        "selected_on": "val",
        "cost": cost | sizes | {"merged": sizes["stored"]},
        "history": history,
    }
    return parts, alone


STAGES: dict[str, Callable[..., Outcome]] = dict.fromkeys(METHODS, fixed) | {
    "linear": probe,
    "noah": noah,
    "glora": glora,
    "glora_random": glora_random,
    "glora_largest": glora_largest,
    "glora_oracle": glora_oracle,
    "glora_retrained": glora_retrained,
    "glora_fixed": fixed,
    "supernet": supernet,
}


def _fit_head(run: Run, recipe: Profile, model, task) -> None:
    """Fit the head as a linear probe does. The last fit is kept in `FITTED`: a grid's settings start from the same head."""
    short = replace(here(run.profile.for_method("linear")), epochs=recipe.one_cycle["head_epochs"], warmup_epochs=0)
    METHODS["linear"](model).to(device())
    key = repr((belonging(model, task.train), short, run.seed, device()))
    if key not in FITTED:
        train(model.get_classifier(), features(model, task.train), short, seed=run.seed)
        FITTED.clear()
        FITTED[key] = copy.deepcopy(model.get_classifier().state_dict())
    model.get_classifier().load_state_dict(FITTED[key])
    torch.manual_seed(run.seed)  # as `train` leaves it, so that what follows draws the same after a fit and after none


def _train_alone(net, run: Run, recipe: Profile, task) -> Outcome:
    fit = one_cycle if recipe.one_cycle else train
    history = fit(net, task.train, recipe, seed=run.seed, checkpoint=training_state(run))
    size = _sizes(net, trainable_parameters(net))
    config = None
    if isinstance(net, AdaptedModel):
        config = to_json(net.config)
        size["stored"] = Space(net.layer_names, (net.rank,), net.kinds).parameters(net.config, net.shapes)
    try:
        plain = fuse(net)
    except NotFusable:
        plain, size["merged"] = net, size["stored"]
    parts = {
        "metrics": _measure(plain, task, recipe) | {"n_test": len(task.test)},
        "config": config,
        "selected_on": "nothing",
        "cost": {"seconds_train": _seconds(history)} | size,
        "history": {"train": history},
    }
    return parts, plain


def _prepare(run: Run, recipe: Profile, model, task) -> tuple:
    """Return the supernet, its space, its score on val, and the random subnets that are watched."""
    net = adapted(run, recipe, model)
    space = Space(net.layer_names, recipe.ranks, net.kinds)
    rng = random.Random(f"watch {run.seed}")
    return net, space, Score(net, task.val, recipe.dtype), [space.sample(rng) for _ in range(RANDOM_SUBNETS)]


def _searched(run: Run, recipe: Profile, model, task, search: Callable[..., Found], split="val", **settings) -> Outcome:
    """Train the supernet unless a search before this one did, search it by the accuracy on `split`, fuse what was found."""
    before = sum(p.numel() for p in model.parameters())
    net, space, score, watched = _prepare(run, recipe, model, task)
    # searches of one supernet share its checkpoint, which a finished training leaves behind
    trained = train(net, task.train, recipe, sample=space.sample, seed=run.seed, checkpoint=training_state(run))
    history = {"train": trained}
    cost = {"seconds_train": _seconds(history["train"])}
    metrics = {"random_val": [score(config) for config in watched], "n_random": RANDOM_SUBNETS}

    judge = score if split == "val" else Score(net, task.test, recipe.dtype)
    state = run.state("search.json")
    judged = f"{split} of {task.sha256}, {belonging(net, task.val, trained=True)}"
    if device().type == "cuda" and set(net.kinds.values()) == {"linear"}:  # a generation at once
        how = {"score_all": lambda configs: judge.all(configs, space)}
    else:
        how = {"score": judge, "stop_early": search is evolve}
    how |= {"spent": lambda: judge.images_seen, "belongs": judged}
    found = search(space, **how, seed=run.seed, shapes=net.shapes, checkpoint=state, **settings)
    cost |= {"seconds_search": found.seconds, "search_images": found.spent}
    generations = [found.generation(g) for g in range(1 + max(e.generation for e in found.ranking))]
    history["search"] = [
        {split: [e.score for e in g], "exact": [e.exact for e in g], "parameters": [e.parameters for e in g]}
        for g in generations
    ]
    plain = fuse(net.use(found.best))
    metrics |= _measure(plain, task, recipe) | {"evaluations": len(found.ranking), "ties": found.ties}
    metrics["random_test"] = [accuracy(fuse(net.use(config)), task.test, dtype=recipe.dtype) for config in watched]
    parts = {
        "metrics": metrics,
        "config": to_json(found.best),
        "selected_on": "val" if split == "val" else "test (oracle)",
        "cost": cost | _sizes(net, space.parameters(found.best, net.shapes)),
        "history": history,
    }
    parts["cost"]["merged"] = sum(p.numel() for p in plain.parameters()) - before  # biases that layers have gained
    return parts, plain


def _measure(plain, task, recipe: Profile) -> dict:
    return {
        "val": accuracy(plain, task.val, dtype=recipe.dtype),
        "test": accuracy(plain, task.test, dtype=recipe.dtype),
    }


def _sizes(net, stored: int) -> dict:
    """Parameters trained and stored, head excluded, the head's own, and what the fused model has beyond the backbone."""
    trained, heads = {name: p.numel() for name, p in net.named_parameters() if p.requires_grad}, head_parameters(net)
    head = sum(number for name, number in trained.items() if name in heads)
    return {"trained": sum(trained.values()) - head, "stored": stored, "merged": 0, "head": head}


def _seconds(history: list[dict]) -> float:
    return sum(epoch["seconds"] for epoch in history)
