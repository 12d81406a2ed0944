"""What a table of methods leaves open: search, split, forms, ranks, rate, budget, or one of the support tensors?"""

import math
from dataclasses import replace

from glora_lib.runs.profile import Profile
from glora_lib.runs.run import Run

TRAIN, VAL = 800, 200  # images of a task of VTAB-1K
FORWARD = 1 / 3  # of a training step's operations


def controls(task: str, profile: Profile, seed: int = 0) -> list[Run]:
    """Return the runs of the controls that the profile names for a task, in that order, in the experiment "controls"."""
    changes = {
        "lora_long": {"epochs": whole_budget(profile)},
        "lora_matched": {"options": {"rank": profile.rank, "placement": "all"}},
    }
    lora = profile.methods.get("lora", {})
    recipes = {
        name: ("lora", replace(profile, methods=profile.methods | {"lora": lora | change})) for name, change in changes.items()
    }
    runs = []
    for name in profile.controlled.get(task, ()):
        method, recipe = recipes.get(name, (name, profile))
        runs.append(Run("controls", task, method, recipe, seed, label=name if name != method else ""))
    return runs


def whole_budget(profile: Profile) -> int:
    """Return how many epochs of training take as many operations as the supernet's and the search's, as the authors search.

    Every subnet is scored on all validation images there; a forward pass takes a third of a step.
    """
    scored = profile.population * (1 + profile.generations) * VAL
    return math.ceil(profile.epochs + FORWARD * scored / TRAIN)


def other_sizes(task: str, profile: Profile, seed: int = 0) -> list[Run]:
    """Return GLoRA with each of the profile's `other_ranks` in the experiment "glora_sizes", labelled "glora-8+4" and alike.

    All else stays, the limit of a subnet's parameters too. Table 1 of the paper has three sizes.
    """
    named = {"glora-" + "+".join(map(str, ranks)): ranks for ranks in profile.other_ranks}
    return [Run("glora_sizes", task, "glora", replace(profile, ranks=ranks), seed, label) for label, ranks in named.items()]


LEFT_OUT = ("", "A", "B", "C", "D", "E", "AB", "CDE")  # support tensors; the last two: what changes W0, and what b0


def ablation(task: str, profile: Profile, seed: int = 0) -> list[Run]:
    """Return one fixed configuration without one support tensor after the other, in the experiment "ablation".

    A, B and C as LoRA, D and E as vectors, the same in every layer, trained alone with LoRA's recipe: nothing is searched, and
    the budget is that of the main table's baselines. The label is "whole", "without_A" and so on.
    """
    recipe = {name: value for name, value in profile.methods.get("lora", {}).items() if name != "options"}
    runs = []
    for names in LEFT_OUT:
        methods = profile.methods | {"glora_fixed": recipe | ({"left_out": names} if names else {})}
        label = f"without_{names}" if names else "whole"
        runs.append(Run("ablation", task, "glora_fixed", replace(profile, methods=methods), seed, label))
    return runs


def rates(task: str, profile: Profile, seed: int = 0) -> list[Run]:
    """Return the methods of the profile's `rates` at their own learning rate and at each of the others.

    At its own rate it is the run of the experiment "vtab1k"; the others belong to the experiment "recipe", and the label is the
    method and the rate, "vpt_deep-3e-03", with as many digits as the rate needs.
    """
    runs = []
    for method, others in profile.rates.items():
        runs.append(Run("vtab1k", task, method, profile, seed))
        for rate in others:
            recipe = profile.methods | {method: profile.methods.get(method, {}) | {"learning_rate": rate}}
            runs.append(Run("recipe", task, method, replace(profile, methods=recipe), seed, label=f"{method}-{exactly(rate)}"))
    return runs


def exactly(number: float) -> str:
    """Return a number as text with no more digits than tell it from every other: "3e-03", "1.6e-04"."""
    return next(text for digits in range(17) if float(text := f"{number:.{digits}e}") == number)


def sensitivity(task: str, profile: Profile, seed: int = 0) -> list[Run]:
    """Return searches of one supernet that differ in one setting each, in the experiment "sensitivity"; the label says which.

    All but the longer one score as many subnets as the profile's own search, and start from the same random ones.
    """
    population, parents, mutants, crosses = profile.population, profile.parents, profile.mutations, profile.crossovers
    halves = {"population": population // 2, "parents": parents // 2, "mutations": mutants // 2, "crossovers": crosses // 2}
    changes = {
        "generations-3x": {"generations": 3 * profile.generations},
        "population-half": halves | {"generations": 2 * profile.generations + 1},
        "mutants-only": {"mutations": mutants + crosses, "crossovers": 0},
        "crosses-only": {"mutations": 0, "crossovers": mutants + crosses},
        "probability-quarter": {"probability": profile.probability / 4},
        "probability-2.5x": {"probability": profile.probability * 2.5},
    }
    return [Run("sensitivity", task, "glora", replace(profile, **change), seed, label=name) for name, change in changes.items()]
