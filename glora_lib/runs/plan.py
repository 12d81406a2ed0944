"""The runs that a profile's tables are made of, the most valuable first: for whoever has minutes instead of days.

Seed 0 of the rows that the paper's claims rest on, then controls, the budget curve, shifts and the other rows, then more seeds.
Controls that search or cut the supernet of a row follow it at once: a minute later its training is still there.
"""

from collections.abc import Iterator
from dataclasses import replace

from glora_lib.data import shifts_of, unavailable
from glora_lib.runs.adapted import SUPERNETS
from glora_lib.runs.controls import controls
from glora_lib.runs.profile import Profile
from glora_lib.runs.run import Run

# rows of the main table, in the order in which they are worth computing
FIRST = ("linear", "linear-0.01", "lora_everywhere", "glora_divided")  # the last is `SEARCHED`
NEXT = ("lora", "glora-0.0001", "repadapter", "fact_tk")
THEN = ("glora", "glora_divided-0.0001", "lora_matched", "ssf", "bitfit", "adapter", "vpt_deep")
SEARCHED = "glora_divided"  # the row whose supernet controls, shifts and the budget curve take
EVERYWHERE = "lora_everywhere"  # LoRA on the layers that GLoRA adapts
CURVE = (SEARCHED, EVERYWHERE, "repadapter")
SHIFTED = ("linear", "vpt_deep", "adapter", EVERYWHERE, SEARCHED)


def plan(profile: Profile) -> list[Run]:
    """Return the runs of a profile that has `rows`, in order; those whose data are not here are left out, each run once.

    Raises ValueError for other profiles, whose runs are the notebooks' alone.
    """
    if not profile.rows:
        raise ValueError(
            f"the profile {profile.name} has no order of runs for a number of minutes; valid: gpu. Its notebooks compute what "
            "is missing: leave --minutes out"
        )
    runs = [
        *_rows(profile, FIRST, (0,)),
        *(run for run in _controls(profile, 0) if run.method in SUPERNETS),
        *_rows(profile, NEXT, (0,)),
        *_controls(profile, 0),
        *_curve(profile),
        *_rows(profile, THEN, (0,)),
        *_shifts(profile),
        *(run for seed in (1, 2) for run in _rows(profile, (*FIRST, *NEXT, *THEN), (seed,))),
    ]
    return list({run.path: run for run in runs if not unavailable(run.task, profile)}.values())


def seeds_of(profile: Profile, label: str) -> tuple[int, ...]:
    """Return the seeds of a row: its own, or those of the form that it is a rate of ("glora-0.0001" is of "glora")."""
    return profile.seeds_of(label if label in profile.other_seeds else label.partition("-")[0])


def run_of(experiment: str, task: str, label: str, profile: Profile, seed: int = 0, targets: tuple[str, ...] = ()) -> Run:
    """Return the run of a row of the main table."""
    method, recipe = profile.row(label)
    return Run(experiment, task, method, recipe, seed, "" if label == method else label, targets)


def _rows(profile: Profile, labels: tuple[str, ...], seeds: tuple[int, ...]) -> Iterator[Run]:
    for label in labels:
        for seed in set(seeds) & set(seeds_of(profile, label)):
            for task in profile.tasks:
                yield run_of("vtab1k", task, label, profile, seed)


def _controls(profile: Profile, seed: int) -> Iterator[Run]:
    _, searched = profile.row(SEARCHED)
    searched = replace(searched, methods=searched.methods | {"lora": profile.row(EVERYWHERE)[1].methods["lora"]})
    for task in profile.controlled:
        yield from controls(task, searched, seed)


def _curve(profile: Profile) -> Iterator[Run]:
    """Runs of the experiment "budget", labelled "<row>-<epochs>": the row with other epochs, of which at most a fifth warm up.

    At a row's own number of epochs, its run in the main table is the point.
    """
    for epochs in profile.budgets:
        for label in CURVE:
            method, recipe = profile.row(label)
            own = recipe.for_method(method)
            if epochs == own.epochs:
                continue
            short = recipe.methods.get(method, {}) | {"epochs": epochs, "warmup_epochs": min(own.warmup_epochs, epochs // 5)}
            changed = replace(recipe, methods=recipe.methods | {method: short})
            for task in profile.budget_tasks:
                yield Run("budget", task, method, changed, 0, f"{label}-{epochs}")


def _shifts(profile: Profile) -> Iterator[Run]:
    for source in profile.sources:
        targets = tuple(shift.target for shift in shifts_of(source))
        for label in SHIFTED:
            yield run_of("domain_generalization", source, label, profile, 0, targets)
