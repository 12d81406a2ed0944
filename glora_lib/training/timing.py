"""Images a second of several models, timed together.

All models are timed in one run, interleaved round by round, and what is compared is the ratio to the base within a round, so
that a drift of the machine cancels.
"""

import random
import time
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import nn


@torch.inference_mode()
def throughput(
    models: Mapping[str, nn.Module], image_size: int, batch_sizes: Sequence[int] = (1, 4, 16), rounds: int = 21, seed: int = 0
) -> pd.DataFrame:
    """Time the models on random images, interleaved, and return a row for every visit in the order in which they were made.

    In each round and for each batch size every model is visited once, in an order that is shuffled anew. A visit passes as
    many images as the largest batch holds, after one batch that is not timed. Round 0 warms everything up and is left out.
    Columns: round (from 1), batch_size, model, images_per_second, ratio (to the model "base" in that round and batch size).
    Raises ValueError without a model "base" and for less than one round.
    """
    if "base" not in models or rounds < 1:
        raise ValueError(
            f'throughput needs a model called "base" and a round at least, not {list(models)[:5]}, {rounds} rounds'
        )
    rng, rows = random.Random(seed), []
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(max(batch_sizes), 3, image_size, image_size, generator=generator).to(
        next(models["base"].parameters()).device
    )
    for number in range(rounds + 1):
        for batch in batch_sizes:
            for name in rng.sample(list(models), len(models)):
                rows.append((number, batch, name, _visit(models[name], images, batch)))
    table = pd.DataFrame(rows, columns=["round", "batch_size", "model", "images_per_second"]).query("round > 0")
    base = table[table["model"] == "base"].set_index(["round", "batch_size"])["images_per_second"]
    own = pd.MultiIndex.from_frame(table[["round", "batch_size"]])
    return table.assign(ratio=table["images_per_second"].to_numpy() / base.reindex(own).to_numpy()).reset_index(drop=True)


def _visit(model: nn.Module, images: torch.Tensor, batch: int) -> float:
    """Pass all images through the model, `batch` at a time, and return images a second."""
    chunks = images.split(batch)
    wait = (lambda: torch.cuda.synchronize(images.device)) if images.is_cuda else lambda: None
    model(chunks[0])
    wait()
    start = time.perf_counter()
    for chunk in chunks:
        model(chunk)
    wait()
    return len(images) / (time.perf_counter() - start)
