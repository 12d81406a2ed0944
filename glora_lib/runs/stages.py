"""What a run does: train, search, fuse, measure. One function a kind of method; `grid` decides what runs and what is kept.

Each takes the run, its recipe, a fresh backbone and the task, and returns parts of the record (metrics, config, selected_on,
cost, history) and the model that was measured, fused where it can be; for a supernet that is the supernet. What is adapted on
the processor, so that it starts alike everywhere, is trained and measured on the device.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch

from glora_lib.data.task import Images
from glora_lib.glora.model import AdaptedModel, fuse
from glora_lib.glora.space import Space, to_json
from glora_lib.methods import METHODS, NotFusable, trainable_parameters
from glora_lib.methods.probes import features
from glora_lib.runs import supernets
from glora_lib.runs.adapted import Outcome, accuracies, adapted, counted, here, seconds, training_state
from glora_lib.runs.profile import Profile
from glora_lib.runs.run import Run
from glora_lib.training.checkpoint import belonging
from glora_lib.training.device import device
from glora_lib.training.head import head_of, head_parameters
from glora_lib.training.loop import train
from glora_lib.training.steps import one_cycle

FITTED: dict[str, dict] = {}  # the head that `_fit_head` fitted last, by what it depends on


def probe(run: Run, recipe: Profile, model, task) -> Outcome:
    """Train the head on features that are computed once."""
    adapted(run, recipe, model)
    if len(head_of(model)) != 1 or not hasattr(model, "forward_head"):  # features of one head are what timm's models give
        return _train_alone(model, run, recipe, task)
    history = train(model.get_classifier(), features(model, task.train), recipe, seed=run.seed)
    parts = {
        "metrics": accuracies(model, task, recipe),
        "config": None,
        "selected_on": "nothing",
        "cost": {"seconds_train": seconds(history)} | counted(model, 0),
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


STAGES: dict[str, Callable[..., Outcome]] = dict.fromkeys(METHODS, fixed) | {
    "linear": probe,
    "noah": supernets.noah,
    "glora": supernets.glora,
    "glora_random": supernets.glora_random,
    "glora_largest": supernets.glora_largest,
    "glora_oracle": supernets.glora_oracle,
    "glora_retrained": supernets.glora_retrained,
    "glora_fixed": fixed,
    "supernet": supernets.supernet,
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
    size = counted(net, trainable_parameters(net))
    config = None
    if isinstance(net, AdaptedModel):
        config = to_json(net.config)
        size["stored"] = Space(net.layer_names, (net.rank,), net.kinds).parameters(net.config, net.shapes)
    try:
        plain = fuse(net)
    except NotFusable:
        plain, size["merged"] = net, size["stored"]
    parts = {
        "metrics": accuracies(plain, task, recipe) | {"n_test": len(task.test)},
        "config": config,
        "selected_on": "nothing",
        "cost": {"seconds_train": seconds(history)} | size,
        "history": {"train": history},
    }
    return parts, plain
