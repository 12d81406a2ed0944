"""The model that a run trains, where its training is kept, and the numbers that every stage takes of what comes out."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from glora_lib.data.task import Task
from glora_lib.glora.space import Choice, Space
from glora_lib.methods import METHODS
from glora_lib.runs.profile import Profile
from glora_lib.runs.run import Run
from glora_lib.training.accuracy import accuracy
from glora_lib.training.device import device, suited
from glora_lib.training.head import head_parameters

Outcome = tuple[dict, nn.Module]  # what a stage returns: parts of the record, and the model that was measured
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


def accuracies(plain: nn.Module, task: Task, recipe: Profile) -> dict[str, float]:
    """Return the top-1 on val and on test, fractions."""
    return {
        "val": accuracy(plain, task.val, dtype=recipe.dtype),
        "test": accuracy(plain, task.test, dtype=recipe.dtype),
    }


def counted(net: nn.Module, stored: int) -> dict[str, int]:
    """Return parameters trained and stored, head excluded, the head's own, and what the fused model has beyond the backbone."""
    trained, heads = {name: p.numel() for name, p in net.named_parameters() if p.requires_grad}, head_parameters(net)
    head = sum(number for name, number in trained.items() if name in heads)
    return {"trained": sum(trained.values()) - head, "stored": stored, "merged": 0, "head": head}


def seconds(history: list[dict]) -> float:
    """Return how long a training took, over all its parts."""
    return sum(epoch["seconds"] for epoch in history)
