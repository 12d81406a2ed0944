"""SuperLoRA's points of Fig. 5 and 6: many settings of one recipe, by name, each at the same rates.

A name says what varies: "2D fold G=1 r=4" is M = 2 with one group, reshaped; "dense rho=0.1" is projected by Fastfood. The
settings were listed before any was run. The peak of the learning rate is chosen for each setting by one rule: of its kind's in
the profile, the one with the best validation accuracy at the first seed. Settings in `REPEATED`, and those on the first seed's
front of validation accuracy against parameters, have every seed of the profile at that rate, the others the first alone. No
single rate serves all: what dense changes need, low ranks hardly move at.
"""

from collections.abc import Collection
from dataclasses import replace

import pandas as pd

from glora_lib.runs.profile import Profile
from glora_lib.runs.run import Run

HEADS = ("trained", "frozen")
FASTFOOD = {"groups": 1, "projection": "fastfood", "seed": 0}
FOLD = {"groups": 1, "shape": "fold"}


def _settings() -> dict[str, tuple[str, dict]]:
    found: dict[str, tuple[str, dict]] = {"dense": ("dense", {})}
    found |= {f"dense rho={rho}": ("dense", FASTFOOD | {"ratio": rho}) for rho in (0.5, 0.25, 0.1, 0.01)}
    found |= {f"LoRA r={r}": ("lora", {"r": r}) for r in (1, 2, 3, 8, 16)}
    found |= {f"2D G=1 r={r}": ("lora", {"r": r, "groups": 1}) for r in (1, 2, 8)}
    found |= {f"2D fold G=1 r={r}": ("lora", FOLD | {"r": r}) for r in (1, 2, 4, 5, 16)}
    for G in (4, 8, 12):
        found[f"2D G={G} r=1"] = ("lora", {"r": 1, "groups": G})
        found |= {f"2D fold G={G} r={r}": ("lora", FOLD | {"r": r, "groups": G}) for r in (1, 4)}
    for order, ranks in ((3, (1, 3, 8, 20)), (4, (2, 4, 8)), (5, (2, 4, 6))):
        found |= {f"{order}D r={r}": ("lorta", {"r": r, "order": order}) for r in ranks}
    found |= {"LoHa r=2": ("loha", {"r": 2}), "LoKr r=4": ("lokr", {"r": 4}), "LoKr dense": ("lokr", {"r": None})}
    found |= {f"LoNKr K={K} side={s} r={r}": ("lonkr", {"r": r, "splits": K, "side": s})
              for K, s, r in ((2, 8, 4), (3, 6, 4), (3, 8, 4), (4, 6, 2))}  # fmt: skip
    # its authors' factors have deviation 1, so that steps grow with the square of the width: divided by that, not by r
    found |= {f"LoTR r={r}": ("lotr", {"r": r, "scale": 1 / 384}) for r in (2, 16)}
    found |= {
        f"2D fold G=1 r={r} rho={rho}": ("lora", FOLD | FASTFOOD | {"r": r, "ratio": rho}) for r, rho in ((4, 0.25), (8, 0.1))
    }
    found["2D fold G=1 r=4 shuffled"] = ("lora", FOLD | {"r": 4, "projection": "shuffle", "seed": 0})
    return found


SETTINGS = _settings()
# the pairs that the paper's sentences are held against; `measures.efficiency` says which
REPEATED = (
    *("LoRA r=1", "LoRA r=3", "LoRA r=16", "2D G=1 r=2", "2D fold G=1 r=2", "2D fold G=1 r=4", "2D fold G=1 r=5"),
    *("3D r=3", "3D r=20", "5D r=6", "dense", "dense rho=0.1", "2D fold G=1 r=4 rho=0.25"),
)


def experiment(head: str) -> str:
    """Return the experiment of the runs whose head is "trained" (Fig. 5), or "frozen" (Fig. 6)."""
    return f"superlora_{head}_head"


def run(name: str, rate: float, task: str, profile: Profile, seed: int, head: str = "trained") -> Run:
    """Return the run of a setting by its name at a rate, labelled with both: "LoRA_r=3@0.03"."""
    preset, options = SETTINGS[name]
    recipe = profile.superlora | {"learning_rate": rate, "options": options}
    if head == "frozen":  # fitted before: in the paper it is another data set's, its labels matched by hand
        recipe["one_cycle"] = {"head_epochs": 10} | recipe["one_cycle"] | {"head": "frozen"}
    method = f"superlora_{preset}"
    profile = replace(profile, methods=profile.methods | {method: recipe})
    return Run(experiment(head), task, method, profile, seed, label=f"{name.replace(' ', '_')}@{rate:g}")


def one_rate_for_all(task: str, profile: Profile, seed: int = 0) -> list[Run]:
    """Return one setting of each kind at each of three rates, in the experiment "superlora_recipe"; labels "dense-rate0.01"."""
    found = []
    for rate in (0.003, 0.01, 0.03):
        for name in ("dense", "LoRA r=3", "2D fold G=1 r=4", "3D r=8"):
            one = run(name, rate, task, profile, seed)
            found.append(replace(one, experiment="superlora_recipe", label=f"{name.replace(' ', '_')}-rate{rate:g}"))
    return found


def named(label: str) -> tuple[str, float]:
    """Return a setting's name and the rate from a label."""
    name, rate = label.split("@")
    return name.replace("_", " "), float(rate)


def kind(name: str) -> str:
    """Return the kind of a setting's unit: "dense", "matrices" (M = 2, or a product of such), or "tensors" (M > 2)."""
    preset, _ = SETTINGS[name]
    return {"dense": "dense", "lorta": "tensors"}.get(preset, "matrices")


def rates_of(name: str, profile: Profile) -> tuple[float, ...]:
    """Return the rates that a setting is compared at: its kind's, divided by rho where the profile says so.

    Behind a projection a step of the same rate moves rho times as far (`superlora.projection`).
    """
    ratio = SETTINGS[name][1].get("ratio", 1.0) if profile.superlora_divided else 1.0
    return tuple(float(f"{rate / ratio:g}") for rate in profile.superlora_rates[kind(name)])


def names(profile: Profile) -> list[str]:
    """Return the settings of a profile, those that are repeated first."""
    return sorted(profile.superlora_settings or SETTINGS, key=lambda name: name not in REPEATED)


def rates(task: str, profile: Profile, head: str = "trained") -> list[Run]:
    """Return every setting at every rate of its own with the first seed."""
    first = profile.seeds[0]
    return [run(name, rate, task, profile, first, head) for name in names(profile) for rate in rates_of(name, profile)]


def repeats(task: str, profile: Profile, head: str, best: dict[str, float], also: Collection[str] = ()) -> list[Run]:
    """Return the repeated settings and `also` with the other seeds, each at its best rate; those without one are left out."""
    known = [name for name in names(profile) if name in (*REPEATED, *also) and name in best]
    return [run(name, best[name], task, profile, seed, head) for seed in profile.seeds[1:] for name in known]


def best_rates(records: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return by setting the rate with the best validation accuracy among the records of one task and head with this seed.

    Of equals the smaller. A setting that lacks a rate counts with those that it has.
    """
    best: dict[str, tuple[float, float]] = {}
    for row in records[records["seed"] == seed].itertuples():
        name, rate = named(row.method)
        best[name] = max(best.get(name, (-1.0, 0.0)), (row.val, -rate))
    return {name: -negative for name, (_, negative) in best.items()}
