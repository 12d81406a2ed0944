"""Many tasks on disk: fused models against one backbone with an adapter a task, and what changing the task takes."""

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from glora_lib.glora.model import AdaptedModel, fuse
from glora_lib.glora.space import Choice, Space
from glora_lib.methods.adapter_file import load_adapter, save_adapter
from glora_lib.methods.belonging import fingerprint


def storage(net: AdaptedModel, tasks: int = 3, repeats: int = 7, ranks: Sequence[int] = (8,), seed: int = 0) -> dict:
    """Write the files of `tasks` random subnets, heads included, to a temporary folder; return their bytes and switching times.

    Returns {"bytes": {"backbone": number, "fused": [a number a task], "adapters": [likewise]}, "seconds": {way: [a number a
    repeat]}}. The ways, timed in turn with the files in the system's cache: "fused", read a
    fused model into a plain one; "adapter", load an adapter with all checks, unfused; "adapter, fused", the same and `fuse`;
    "check", the part of "adapter" that hashes the backbone.
    """
    rng, space = random.Random(seed), Space(net.layer_names, ranks)
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        adapters = [Path(place) / f"adapter{task}.safetensors" for task in range(tasks)]
        models = [Path(place) / f"fused{task}.safetensors" for task in range(tasks)]
        backbone = Path(place) / "backbone.safetensors"
        save_file(fuse(net.use(space.uniform(Choice()))).state_dict(), backbone)  # without any support tensor
        for adapter, model in zip(adapters, models, strict=True):
            for layer in map(net.layer, net.layer_names):
                for part in (layer.Ad, layer.Bd, layer.Cd, layer.D, layer.E):
                    nn.init.normal_(part, std=1e-3)
            save_adapter(net.use(space.sample(rng)), adapter, backbone="the backbone measured here")
            plain = fuse(net)
            save_file(plain.state_dict(), model)
        ways = {
            "fused": lambda task: plain.load_state_dict(load_file(models[task])),
            "adapter": lambda task: load_adapter(net, adapters[task]),
            "adapter, fused": lambda task: (load_adapter(net, adapters[task]), fuse(net)),
            "check": lambda task: fingerprint(net),
        }
        seconds = {way: [] for way in ways}
        for repeat in range(-1, repeats):
            for way in rng.sample(list(ways), len(ways)):
                start = time.perf_counter()
                ways[way](repeat % tasks)
                if repeat >= 0:  # the first of each warms up
                    seconds[way].append(time.perf_counter() - start)
        size = {"backbone": backbone.stat().st_size, "fused": [model.stat().st_size for model in models]}
        size["adapters"] = [adapter.stat().st_size for adapter in adapters]
    return {"bytes": size, "seconds": seconds}
