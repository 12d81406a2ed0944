"""Training a supernet: on a GPU as a program of one, whose step is a graph with masks, elsewhere by the loop.

The loop's step has other kernels for every configuration, which a graph cannot hold.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import Dataset

from glora_lib.glora.masked import Masks
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Space
from glora_lib.training.batch import TrainingError
from glora_lib.training.device import free
from glora_lib.training.loop import train
from glora_lib.training.many import train_many
from glora_lib.training.stacked import Unsuited


def train_supernet(
    net: AdaptedModel,
    space: Space,
    data: Dataset,
    recipe,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    watch: Callable[[int], dict] | None = None,
) -> list[dict]:
    """Train `net` with a random configuration of `space` a step; arguments, result and errors as for `training.loop.train`.

    A checkpoint of the loop is gone on from by the loop, also on a GPU. That of a program lies beside it, "program-" before
    its name.
    """
    place = next(net.parameters()).device
    program = None if checkpoint is None else Path(checkpoint).with_name(f"program-{Path(checkpoint).name}")
    by_loop = checkpoint is not None and Path(checkpoint).exists()
    begun = program is not None and program.exists()

    def seen(epoch: int) -> dict:
        nonlocal begun
        begun = True
        return watch(epoch) if watch else {}

    if begun or (_has_graphs(place) and not by_loop):
        try:
            choices = Masks(space, net.rank, place)
            (history,) = train_many([net], [data], [recipe], seeds=[seed], choices=choices, checkpoint=program, watch=seen)
            return history
        except Unsuited:  # layers without masks
            pass
        except torch.OutOfMemoryError as error:
            if begun:  # the loop cannot go on from there
                again = f"delete {program} to start again" if program else "start again with a fresh network"
                raise TrainingError(
                    f"the supernet's training does not fit into the memory of {place} any more; make room there, or {again} "
                    f"({' '.join(str(error).split())[:120]})"
                ) from error
        free()  # not while an error holds what did not fit; the loop takes a batch in parts
    return train(net, data, recipe, sample=space.sample, seed=seed, checkpoint=checkpoint, watch=watch)


def _has_graphs(place: torch.device) -> bool:
    return place.type == "cuda"
