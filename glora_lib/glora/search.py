"""Evolutionary search over configurations, with any score. No torch here.

Follows the paper (App. B) and the authors' evolution.py: 50 random subnets, then 20 generations of 50 new ones, 25 mutants and
25 crosses of the ten best so far. Three things differ: the last generation counts (theirs is evaluated but never enters the
ranking), equal scores are ranked by fewer parameters (theirs by age), and the random generator is the search's own.
"""

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glora_lib.glora.space import Choice, Config, Space
from glora_lib.training import deadline
from glora_lib.training.files import replacing

TRIES = 10  # attempts per wanted child, as in the authors' code; what is then still missing is drawn at random


@dataclass(frozen=True)
class Evaluated:
    """A configuration that was scored: in which generation, after how many others, and how many parameters it stores.

    Where `exact` is false its scoring was stopped, and all that is known is that it lies below `score`.
    """

    config: dict[str, Choice]
    score: float
    parameters: int
    generation: int
    number: int
    exact: bool = True


@dataclass(frozen=True)
class Found:
    """What a search found: the best configuration first in `ranking`, which holds every one that was scored.

    `seconds` and `spent`, which `evolve` is told to count, are what it took, the parts before an interruption included.
    """

    ranking: list[Evaluated]
    seconds: float = 0.0
    spent: int = 0

    @property
    def best(self) -> dict[str, Choice]:
        """The configuration with the highest score; among equals the smallest, among those the first found."""
        return self.ranking[0].config

    @property
    def score(self) -> float:
        """The best configuration's score."""
        return self.ranking[0].score

    @property
    def ties(self) -> int:
        """How many configurations reached the best score."""
        return sum(evaluated.exact and evaluated.score == self.score for evaluated in self.ranking)

    def generation(self, number: int) -> list[Evaluated]:
        """Return the configurations that were scored in that generation, in that order; 0 is the random start."""
        members = [evaluated for evaluated in self.ranking if evaluated.generation == number]
        return sorted(members, key=lambda evaluated: evaluated.number)


def evolve(
    space: Space,
    *,
    score: Callable[[Config], float] | None = None,
    score_all: Callable[[Sequence[Config]], Sequence[float]] | None = None,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    population: int = 50,
    parents: int = 10,
    mutations: int = 25,
    crossovers: int = 25,
    probability: float = 0.2,
    generations: int = 20,
    limit: int | None = None,
    stop_early: bool = False,
    checkpoint: str | Path | None = None,
    belongs: str = "",
    spent: Callable[[], int] = lambda: 0,
) -> Found:
    """Search `space` for the configuration with the highest score; no configuration is scored twice.

    Args:
        score: accuracy on validation data, never on test data; higher is better.
        score_all: scores the configurations of a generation together instead of `score` one by one; `stop_early` has no part in
            it. Equal scores give the same search.
        shapes: layer name -> (d2, d1), to count parameters. Without it all layers count as equally wide, 768 x 768.
        limit: the most parameters that a subnet may have.
        stop_early: from generation 1 on, call `score(config, floor)` with the score of the last of the best, which may return
            None as soon as the configuration lies below the floor. It then cannot become a parent or the best, whatever its
            score: the search takes the same path and finds the same. The random start is scored whole, as a sample.
        checkpoint: a JSON file that the search goes on from if it exists, written after every generation.
            The result is the same as that of a search that was never interrupted.
        belongs: names what the scores belong to (weights, images); a checkpoint of another name is refused. Without it, what
            `score` itself says of that (its attribute `belongs`, which `Score` has).
        spent: a count of what scoring costs, images for example, so far in this process; for `Found.spent`.

    Raises ValueError for a limit under which random configurations are not found, for settings that do not add up, and for a
    checkpoint that is damaged or of another search; OutOfTime after a generation that was kept when the deadline has passed.
    """
    if (score is None) == (score_all is None):
        raise ValueError("give either `score`, for one configuration, or `score_all`, for the configurations of a generation")
    counts = (population, parents, mutations, crossovers, generations, seed)
    if any(isinstance(value, bool) or not isinstance(value, int) for value in counts):
        raise ValueError(f"population, parents, mutations, crossovers, generations and seed must be integers; got {counts}")
    if not 1 <= parents <= population or mutations + crossovers > population:
        raise ValueError(f"need 1 <= parents ({parents}) <= population and mutations + crossovers <= population ({population})")
    if generations < 0 or min(mutations, crossovers) < 0 or not 0 <= probability <= 1:
        raise ValueError(
            "need generations, mutations and crossovers of 0 or more, and a probability between 0 and 1; "
            f"got {generations}, {mutations}, {crossovers} and {probability}"
        )
    if checkpoint is not None:
        belongs = belongs or getattr(score or score_all, "belongs", "")
    shapes = shapes or dict.fromkeys(space.layer_names, (768, 768))
    rng = random.Random(seed)
    settings = [space.layer_names, space.ranks, seed, population, parents, mutations, crossovers, probability, limit]
    settings = json.loads(json.dumps([*settings, [shapes[name] for name in space.layer_names], belongs]))
    seen: dict[str, Evaluated] = {}
    first, start, before = 0, time.perf_counter(), spent()
    if checkpoint is not None and Path(checkpoint).exists():
        first, seconds, counted = _resume(Path(checkpoint), settings, space, shapes, seen, rng)
        start, before = start - seconds, before - counted
        if first > generations + 1:
            raise ValueError(f"the checkpoint {checkpoint} holds {first - 1} generations, more than {generations}; delete it")

    for generation in range(first, generations + 1):
        children: dict[str, tuple[dict[str, Choice], int]] = {}  # and how many parameters they store

        def admit(config, children=children) -> None:
            key = space.encode(config)
            if key in seen or key in children:
                return
            parameters = space.parameters(config, shapes)
            if limit is None or parameters <= limit:
                children[key] = config, parameters

        if generation > 0:
            best = [evaluated.config for evaluated in _rank(seen)[:parents]]
            _breed(mutations, children, admit, lambda best=best: space.mutate(rng.choice(best), rng, probability))
            _breed(crossovers, children, admit, lambda best=best: space.cross(rng.choice(best), rng.choice(best), rng))
        _breed(population - len(children), children, admit, lambda: space.sample(rng), tries=100)
        if not seen and len(children) < min(parents, space.count()):
            raise ValueError(
                f"only {len(children)} of {100 * population} random configurations have at most {limit} parameters; raise the "
                f"limit: a random one has {space.parameters(space.sample(rng), shapes)}"
            )
        together = None if score_all is None else iter(score_all([config for config, _ in children.values()]))
        for key, (config, parameters) in children.items():
            floor = _rank(seen)[:parents][-1].score if stop_early and generation > 0 else None
            if together is not None:
                value = next(together)
            elif floor is None:
                value = score(config)
            else:
                value = score(config, floor)
            exact, value = value is not None, floor if value is None else float(value)
            if not math.isfinite(value):
                kept = (
                    f"the search so far is in {checkpoint}"
                    if checkpoint is not None
                    else "without a checkpoint nothing is kept"
                )
                raise ValueError(f"the score of configuration {key} is {value}; {kept}; `space.decode` reads the configuration")
            seen[key] = Evaluated(config, value, parameters, generation, len(seen), exact)
        if checkpoint is not None:
            _save(Path(checkpoint), settings, seen, generation, rng, time.perf_counter() - start, spent() - before)
            if generation < generations:
                deadline.check(f"{generation} of {generations} generations are kept in {checkpoint}")
    return Found(_rank(seen), time.perf_counter() - start, spent() - before)


def random_search(space: Space, *, budget: int, **kwargs) -> Found:
    """Score `budget` random configurations: what the evolution has to beat at equal cost. Arguments as for `evolve`."""
    return evolve(space, **kwargs, population=budget, parents=1, mutations=0, crossovers=0, generations=0)


def _rank(seen: Mapping[str, Evaluated]) -> list[Evaluated]:
    order = lambda evaluated: (-evaluated.score, not evaluated.exact, evaluated.parameters)  # noqa: E731
    return sorted(seen.values(), key=order)  # stable: then by age


def _breed(wanted: int, children: dict, admit: Callable, make: Callable[[], Config], tries: int = TRIES) -> None:
    """Add up to `wanted` new, legal children; stop after `tries` attempts for each."""
    goal = len(children) + wanted
    for _ in range(tries * wanted):
        if len(children) == goal:
            return
        admit(make())


def _save(
    path: Path, settings: list, seen: Mapping[str, Evaluated], generation: int, rng: random.Random, seconds: float, spent: int
) -> None:
    version, state, gauss = rng.getstate()
    data = {
        "settings": settings,
        "generation": generation,
        "seconds": seconds,
        "spent": spent,
        "rng": [version, list(state), gauss],
        "seen": [[key, evaluated.score, evaluated.generation, evaluated.exact] for key, evaluated in seen.items()],
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data))


def _resume(path: Path, settings: list, space: Space, shapes: Mapping, seen: dict, rng: random.Random):
    """Fill `seen` and `rng` from the checkpoint; return the generation to go on with, and the seconds and count so far."""
    try:
        data = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the checkpoint {path} is not valid JSON ({error}); delete it to start again") from error
    try:
        if data["settings"] != settings:
            raise ValueError(
                f"the checkpoint {path} belongs to a search with other settings, scores or layers; delete it or restore them"
            )
        found = [(space.decode(key), float(score), int(number), bool(exact)) for key, score, number, exact in data["seen"]]
        version, state, gauss = data["rng"]
        generation, seconds, spent = int(data["generation"]), float(data["seconds"]), int(data["spent"])
        rng.setstate((version, tuple(state), gauss))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is no whole checkpoint of a search ({error!r}); name another file, or delete it") from error
    for config, score, number, exact in found:
        parameters = space.parameters(config, shapes)
        seen[space.encode(config)] = Evaluated(config, score, parameters, number, len(seen), exact)
    return generation + 1, seconds, spent
