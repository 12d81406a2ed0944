"""The experiment "layers": GLoRA on layers that are not plain linear, beside what is common there."""

from dataclasses import replace

from glora_lib.runs.profile import Profile
from glora_lib.runs.run import Run

METHODS = ("linear", "full", "bitfit", "lora")
EVERY_SEED = 3  # of the tasks, the first so many have every seed of the profile, the others the first seed


def layers(profile: Profile) -> list[Run]:
    """Return the runs of the experiment "layers", whose settings the profile's `layers` changes.

    GLoRA has a row for each of the sets of kinds in "adapted", labelled "glora_conv", "glora_conv_norm" and alike. Rows in
    "once" have the first seed of those tasks alone that have every seed for others.
    """
    here, runs = changed(profile), []
    once = profile.layers.get("once", ())
    for place, task in enumerate(here.tasks):
        for seed in here.seeds if place < EVERY_SEED else here.seeds[:1]:
            rows = _rows("layers", task, here, profile.layers["adapted"], seed)
            left_out = () if place < EVERY_SEED and seed == here.seeds[0] else once
            runs += [run for run in rows if (run.label or run.method) not in left_out]
    return runs


def recipes(profile: Profile) -> list[Run]:
    """Return the runs of the experiment "layers_recipe": rows at each rate of "rates", one seed of the task "rates_on".

    Their validation accuracy chose the rates of the experiment "layers"; all GLoRA rows take that of the first. The label is
    the row's and the rate: "lora-0.003".
    """
    here, runs = changed(profile), []
    for rate in profile.layers["rates"]:
        peak = {"learning_rate": rate, "head_learning_rate": rate}
        methods = {name: here.methods.get(name, {}) | peak for name in METHODS}
        there = replace(here, methods=methods, **peak)
        rows = _rows("layers_recipe", profile.layers["rates_on"], there, profile.layers["adapted"][:1], here.seeds[0])
        runs += [replace(run, label=f"{run.label or run.method}-{rate:g}") for run in rows if run.method != "linear"]
    return runs


def changed(profile: Profile) -> Profile:
    """Return the profile with the settings of this experiment."""
    own = ("adapted", "once", "rates", "rates_on")
    return replace(profile, layers={}, **{name: value for name, value in profile.layers.items() if name not in own})


def _rows(experiment: str, task: str, here: Profile, adapted, seed: int) -> list[Run]:
    rows = [Run(experiment, task, method, here, seed) for method in METHODS]
    for kinds in adapted:
        options = replace(here, options={"layers": list(kinds)})
        rows.append(Run(experiment, task, "glora", options, seed, label="_".join(("glora", *kinds))))
    return rows
