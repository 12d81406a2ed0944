"""One search: ours, which stops scoring where the tenth best is out of reach, and between its candidates the authors' loop."""

import io
import time
from dataclasses import replace

import torch
from PIL import Image

from glora_lib.benchmark.literal import literal
from glora_lib.benchmark.setting import Setting
from glora_lib.data import load_task
from glora_lib.data.task import Images, resize
from glora_lib.glora.score import Score
from glora_lib.glora.search import evolve
from glora_lib.glora.space import Space
from glora_lib.methods import METHODS
from glora_lib.training.accuracy import accuracy
from glora_lib.training.loop import train

CANDIDATES = 9  # of the search that the authors' loop scores too


def search(setting: Setting) -> dict:
    """Train a supernet for a few epochs, search it, and time the authors' loop on some of the same candidates.

    The profile's first task and recipe, at the size of the setting. Returns {"generation", "seconds", "images": lists with an
    entry a candidate, "literal_seconds": a list over those that the authors' loop scored, "compared": how many of these ours
    scored whole, "agree": how many of them got the same accuracy, "n_val", "task", "seconds_train", "population"}.

    Each candidate of the authors' loop decodes and resizes every validation image from JPEG, which is here of the model's own
    size (their images are larger), and computes the literal formula with timm's attention; theirs keeps no score either.
    """
    profile = setting.profile.for_method("glora")
    task = load_task(profile.tasks[0], replace(profile, image_size=setting.image_size))
    net = METHODS["glora"](setting.backbone(), rank=profile.rank, scale_broadcast=profile.scale_broadcast)
    net.model.reset_classifier(task.classes)
    space = Space(net.layer_names, profile.ranks)
    recipe = replace(profile, epochs=setting.epochs, warmup_epochs=1, update_unsampled=False)
    history = train(net, task.train, recipe, sample=space.sample, seed=setting.seed)

    slow = literal(setting.backbone(), profile.rank, profile.scale_broadcast)
    slow.model.reset_classifier(task.classes)
    slow.load_state_dict(net.state_dict())
    files = [_jpeg(image) for image in task.val.raw]
    options = profile.evolution | {"generations": setting.generations}
    every = max(1, options["population"] * (1 + setting.generations) // CANDIDATES)
    score, seconds, images, watched = Score(net, task.val, profile.dtype), [], [], []
    literal_seconds, literal_scores = [], {}

    def literal_loop(config) -> None:
        """Score a candidate as the authors do, right beside ours: the machine's pace drifts."""
        start = time.perf_counter()
        pixels = resize((Image.open(io.BytesIO(file)) for file in files), setting.image_size)
        accuracy(slow.use(config), Images(pixels, task.val.labels))
        literal_seconds.append(time.perf_counter() - start)
        literal_scores[space.encode(config)] = accuracy(slow, task.val)

    def timed(config, floor=None):
        start, before = time.perf_counter(), score.images_seen
        value = score(config, floor)
        seconds.append(time.perf_counter() - start)
        images.append(score.images_seen - before)
        watched.append(config)
        if len(watched) % every == 0:
            literal_loop(config)
        return value

    found = evolve(space, score=timed, seed=setting.seed, shapes=net.shapes, stop_early=True, **options)

    exact = {space.encode(e.config): e.score for e in found.ranking if e.exact}
    numbers = {space.encode(e.config): e.generation for e in found.ranking}
    generations = [numbers[space.encode(config)] for config in watched]
    agree = [value == exact[key] for key, value in literal_scores.items() if key in exact]
    return {
        "generation": generations, "seconds": seconds, "images": images, "literal_seconds": literal_seconds,
        "agree": sum(agree), "compared": len(agree), "n_val": len(task.val), "task": task.name,
        "seconds_train": sum(epoch["seconds"] for epoch in history), "population": profile.population,
    }  # fmt: skip


def projected(measured: dict, generations: int = 20) -> dict[str, float]:
    """Return the seconds of a whole search by what was measured, ours and the authors', and their ratio.

    Ours is the random start as measured and every later generation as the mean of those measured.
    """
    start = [s for s, g in zip(measured["seconds"], measured["generation"], strict=True) if g == 0]
    later = [s for s, g in zip(measured["seconds"], measured["generation"], strict=True) if g > 0]
    ours = sum(start) + generations * measured["population"] * sum(later) / len(later)
    theirs = (1 + generations) * measured["population"] * float(torch.tensor(measured["literal_seconds"]).median())
    return {"ours": ours, "theirs": theirs, "ratio": theirs / ours}


def _jpeg(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95)
    return file.getvalue()
