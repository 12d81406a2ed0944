"""Checkpoints of a training: everything that the rest of it depends on, and what it belongs to."""

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from glora_lib.training.batch import TrainingError
from glora_lib.training.files import replacing
from glora_lib.training.wrappers import plain_name

KEYS = ("settings", "belongs", "parameters", "buffers", "optimizer", "order", "torch", "device", "draw", "history")
SAMPLED = 2**16  # numbers of a tensor that enter a fingerprint
OPTIONS = ("scale", "scale_broadcast", "groups", "p", "drop_prob", "eps", "momentum")  # of modules, which no tensor shows


def belonging(model: nn.Module, data: Dataset | str, trained: bool = False) -> dict[str, str]:
    """Return fingerprints of what a training belongs to: the data, the frozen weights, and the options of modules.

    Of the data labels and three examples count, and the sum of each picture that is in memory; data may also be one text that
    holds all of them. With `trained` the weights that are trained count, too: what a search belongs to.
    """
    return {"data": _data(data), "frozen weights": _weights(model, trained), "options": options_of(model)}


def sampling(sample: Callable[[random.Random], object] | None) -> dict[str, str]:
    """Return the fingerprint of the configurations that a training draws: the first ones from a seed of its own."""
    if sample is None:
        return {"configurations": "none"}
    draw = random.Random(0)
    return {"configurations": hashlib.sha256(repr([sample(draw) for _ in range(3)]).encode()).hexdigest()[:16]}


def save(path: Path, *, settings, belongs, trained, buffers, optimizer, order, draw, history, device: Tensor | None) -> None:
    """Write a checkpoint, whole or not at all; what was there before stays until it is whole.

    Args:
        trained: name -> parameter that is trained.
        buffers: name -> buffer of the model: running statistics change in training, too.
        optimizer: the optimiser, or None when the training is at its end.
        order, draw: the generators of the data's order and of configurations.
        device: the state of the GPU's generator; None on the processor, whose generator is stored always.
    """
    state = {
        "settings": settings,
        "belongs": belongs,
        "parameters": {name: parameter.detach() for name, parameter in trained.items()},
        "buffers": dict(buffers),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "order": order.get_state(),
        "torch": torch.get_rng_state(),
        "device": device,
        "draw": draw.getstate(),
        "history": history,
    }
    write(path, state)


def write(path: Path, state: dict) -> None:
    """Write any state that `load` can read: tensors, numbers, texts, lists and dicts of them."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load(path: Path, settings: dict, belongs: dict[str, str], keys: Sequence[str] = KEYS) -> dict:
    """Return what `save` wrote, on the processor. TrainingError for a file that is damaged, no checkpoint, or another's."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if Path(path).is_file() and isinstance(error, PermissionError):
            raise TrainingError(f"the checkpoint {path} may not be read ({error}); mend its permissions") from error
        if not Path(path).is_file():
            raise TrainingError(f"the checkpoint {path} is no file ({error}); name another") from error
        raise TrainingError(f"the checkpoint {path} cannot be read ({error}); delete it to start again") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or "it is empty"
        if "weights_only" in reason:  # torch's advice to read the file without checks is none for a damaged one
            reason = "it is damaged, or no file of torch's"
        raise TrainingError(f"the checkpoint {path} cannot be read ({reason}); delete it to start again") from error
    if not isinstance(state, dict) or not {"settings", "belongs", *keys} <= set(state):
        lacks = sorted({"settings", "belongs", *keys} - set(state)) if isinstance(state, dict) else "everything"
        raise TrainingError(f"{path} is no checkpoint of a training of this version: it lacks {lacks}; name another file")
    for what, mine in (("settings", settings), ("belongs", belongs)):
        there = state[what]
        if changed := {name: (there.get(name), value) for name, value in mine.items() if there.get(name) != value}:
            kind = "with other settings" if what == "settings" else f"for other {' and '.join(changed)}"
            raise TrainingError(f"the checkpoint {path} was made {kind}, (there, here): {changed}; delete it or restore them")
    return state


def restore(
    path: Path,
    state: dict,
    trained: dict[str, nn.Parameter],
    buffers: dict,
    optimizer,
    order: torch.Generator,
    draw: random.Random,
) -> list[dict]:
    """Put everything back as it was after the last whole epoch; return the history so far.

    On another kind of device than it was made on, the generator of dropout cannot go on where it was: it goes on from where the
    checkpoint's own stood on the processor, and the result is another than that of an undisturbed training.
    """
    pairs = [(trained, state["parameters"]), (buffers, state["buffers"])]
    for mine, there in pairs:
        if {name: tensor.shape for name, tensor in mine.items()} != {name: tensor.shape for name, tensor in there.items()}:
            raise TrainingError(
                f"the checkpoint {path} holds other parameters than this model trains; delete it or adapt alike"
            )
    with torch.no_grad():
        for mine, there in pairs:
            for name, tensor in mine.items():
                tensor.copy_(there[name])
    if state["optimizer"] is not None:
        # the device's: a step that is a graph has its rate, which is set at every step, in a tensor
        own = [{name: group[name] for name in ("lr", "capturable") if name in group} for group in optimizer.param_groups]
        optimizer.load_state_dict(state["optimizer"])
        for group, kept in zip(optimizer.param_groups, own, strict=True):
            group |= kept
    order.set_state(state["order"])
    torch.set_rng_state(state["torch"])
    place = next(iter(trained.values())).device
    if place.type == "cuda" and state["device"] is not None:
        torch.cuda.set_rng_state(state["device"], place)
    draw.setstate(state["draw"])
    return state["history"]


def _data(data: Dataset | str) -> str:
    if isinstance(data, str):
        return hashlib.sha256(data.encode()).hexdigest()[:16]
    digest = hashlib.sha256(str(len(data)).encode())
    places = sorted({0, len(data) // 2, len(data) - 1}) if len(data) else []
    labels, raw = getattr(data, "labels", None), getattr(data, "raw", None)
    if isinstance(raw, Tensor) and raw.numel():
        digest.update(_bytes(raw.flatten(1).sum(1, dtype=torch.int64)))
    for tensor in ([] if labels is None else [labels]) + ([*data[places]] if places else []):
        digest.update(_bytes(torch.as_tensor(tensor)))
    return digest.hexdigest()[:16]


def _weights(model: nn.Module, trained: bool) -> str:
    digest = hashlib.sha256()
    for tensor in [*(p for p in model.parameters() if trained or not p.requires_grad), *model.buffers()]:
        numbers = tensor.detach().flatten()
        digest.update(str(tuple(tensor.shape)).encode() + _bytes(numbers[:: max(1, numbers.numel() // SAMPLED)]))
    return digest.hexdigest()[:16]


def options_of(model: nn.Module) -> str:
    """Return a fingerprint of what modules are set to beside their tensors."""
    found = [
        f"{plain_name(model, name)}.{option} {vars(module)[option]!r}"
        for name, module in model.named_modules()
        for option in OPTIONS
        if isinstance(vars(module).get(option), bool | int | float)
    ]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy().tobytes()
