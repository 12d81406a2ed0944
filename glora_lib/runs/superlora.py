"""SuperLoRA's points of Fig. 5 and 6: many settings of one recipe, by name, and which of them are repeated.

A name says what varies: "2D fold G=4 r=1" is M = 2 with four groups, reshaped; "dense rho=0.1" is projected by Fastfood. The
settings were listed before any was run; those in `REPEATED` have every seed of the profile, the others its first.
"""

from dataclasses import replace

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
    found |= {f"LoTR r={r}": ("lotr", {"r": r}) for r in (2, 16)}
    found |= {
        f"2D fold G=1 r={r} rho={rho}": ("lora", FOLD | FASTFOOD | {"r": r, "ratio": rho}) for r, rho in ((4, 0.25), (8, 0.1))
    }
    found["2D fold G=1 r=4 shuffled"] = ("lora", FOLD | {"r": 4, "projection": "shuffle", "seed": 0})
    return found


SETTINGS = _settings()
# the pairs that the paper's sentences are held against; `measures.efficiency` says which
REPEATED = (
    *("LoRA r=1", "LoRA r=3", "LoRA r=16", "2D G=1 r=2", "2D fold G=1 r=2", "2D fold G=1 r=4", "2D fold G=1 r=5"),
    *("3D r=3", "3D r=20", "5D r=6", "dense", "dense rho=0.1"),
)
# what recipes are compared on, by validation images alone: one of each kind of unit
PROBES = ("dense", "LoRA r=3", "2D fold G=1 r=4", "3D r=8")
RATES = (0.003, 0.01, 0.03)


def experiment(head: str) -> str:
    """Return the experiment of the runs whose head is "trained" (Fig. 5), or "frozen" (Fig. 6)."""
    return f"superlora_{head}_head"


def run(name: str, task: str, profile: Profile, seed: int, head: str = "trained") -> Run:
    """Return the run of a setting by its name, labelled with it."""
    preset, options = SETTINGS[name]
    recipe = profile.superlora | {"options": options}
    if head == "frozen":  # fitted before: in the paper it is another data set's, its labels matched by hand
        recipe["one_cycle"] = {"head_epochs": 10} | recipe["one_cycle"] | {"head": "frozen"}
    method = f"superlora_{preset}"
    profile = replace(profile, methods=profile.methods | {method: recipe})
    return Run(experiment(head), task, method, profile, seed, label=label(name))


def runs(task: str, profile: Profile, head: str = "trained") -> list[Run]:
    """Return all runs of a task: every setting with the first seed, then those that are repeated with the others."""
    first, *others = profile.seeds
    names = sorted(profile.superlora_settings or SETTINGS, key=lambda name: name not in REPEATED)  # those first
    found = [run(name, task, profile, first, head) for name in names]
    return found + [run(name, task, profile, seed, head) for seed in others for name in names if name in REPEATED]


def recipes(task: str, profile: Profile, seed: int = 0) -> list[Run]:
    """Return the runs that the recipe is chosen by, in the experiment "superlora_recipe": other peaks of the groups' rate."""
    found = []
    for rate in RATES:
        changed = replace(profile, superlora=profile.superlora | {"learning_rate": rate})
        for name in PROBES:
            one = run(name, task, changed, seed)
            found.append(replace(one, experiment="superlora_recipe", label=f"{one.label}-rate{rate}"))
    return found


def label(name: str) -> str:
    """Return a setting's name as part of a file's name: without blanks."""
    return name.replace(" ", "_")
