"""Stages of a run that has a supernet: train it, search it, fuse what was found, or train that once more.

They take and return what the others in `stages` do.
"""

import copy
import random
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from glora_lib.glora.model import fuse
from glora_lib.glora.score import Score
from glora_lib.glora.search import Found, evolve, random_search
from glora_lib.glora.space import Space, from_json, to_json
from glora_lib.glora.supernet import train_supernet
from glora_lib.methods import METHODS, trainable_parameters
from glora_lib.methods.noah import search as noah_search
from glora_lib.runs.adapted import Outcome, accuracies, adapted, counted, here, largest, seconds, training_state
from glora_lib.runs.profile import Profile
from glora_lib.runs.run import Run
from glora_lib.training.accuracy import accuracy
from glora_lib.training.checkpoint import belonging
from glora_lib.training.device import device
from glora_lib.training.loop import train

RANDOM_SUBNETS = 3  # random subnets that are measured on test beside the one that was found


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
        "cost": {"seconds_train": seconds(history)} | counted(net, 0),
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
        "metrics": accuracies(plain, task, recipe),
        "config": to_json(config),
        "selected_on": "nothing",
        "cost": {"seconds_train": seconds(history)} | counted(net, space.parameters(config, net.shapes)),
        "history": {"train": history},
    }
    return parts, plain


def glora_oracle(run: Run, recipe: Profile, model, task) -> Outcome:
    """Search the same supernet on the test images, as the authors' code was first published: an upper bound, never a result."""
    return _searched(run, recipe, model, task, evolve, split="test", **recipe.evolution)


def glora_retrained(run: Run, recipe: Profile, model, task) -> Outcome:
    """Search as `glora` does, then train what was found once more: alone, from the backbone, with the supernet's recipe.

    A search that `glora` has finished before with this code is not repeated. What is measured is the second training; the
    metrics "inherited_val" and "inherited_test" are the first one's.
    """
    fresh = copy.deepcopy(model)
    parts, _ = glora(replace(run, method="glora", label=""), recipe, model, task)
    torch.manual_seed(run.seed)  # support tensors begin as the supernet's began
    net = adapted(run, recipe, fresh).use(from_json(parts["config"]))
    history = train(net, task.train, recipe, seed=run.seed, checkpoint=run.state("retrain.pt"))
    plain = fuse(net)
    inherited = {f"inherited_{split}": parts["metrics"][split] for split in ("val", "test")}
    parts["metrics"] |= inherited | accuracies(plain, task, recipe)
    parts["cost"]["seconds_train"] += seconds(history)
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
    cost["seconds_train"] = seconds(history["train"]) + seconds(history["retrain"])
    sizes = counted(net, trainable_parameters(alone))  # trained: the supernet
    parts = {
        "metrics": accuracies(alone, task, recipe) | {"evaluations": len(ranking)},
        "config": {part: list(widths) for part, widths in best.items()},
        "selected_on": "val",
        "cost": cost | sizes | {"merged": sizes["stored"]},
        "history": history,
    }
    return parts, alone


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
    cost = {"seconds_train": seconds(history["train"])}
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
    metrics |= accuracies(plain, task, recipe) | {"evaluations": len(found.ranking), "ties": found.ties}
    metrics["random_test"] = [accuracy(fuse(net.use(config)), task.test, dtype=recipe.dtype) for config in watched]
    parts = {
        "metrics": metrics,
        "config": to_json(found.best),
        "selected_on": "val" if split == "val" else "test (oracle)",
        "cost": cost | counted(net, space.parameters(found.best, net.shapes)),
        "history": history,
    }
    parts["cost"]["merged"] = sum(p.numel() for p in plain.parameters()) - before  # biases that layers have gained
    return parts, plain
