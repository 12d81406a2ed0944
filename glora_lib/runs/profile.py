"""What a profile is: every setting of a run, with the paper's values as defaults, and how one run gets its recipe from it."""

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
    "glora_retrained": "what GLoRA's search found, trained once more: alone, from the backbone, with the supernet's recipe",
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
    other_seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by method, control or experiment
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)  # by method: other learning rates, `controls.rates`
    layers: dict = field(default_factory=lambda: dict(LAYERS))  # what the experiment "layers" changes, `layers.layers`
    # the supernet (App. A and the authors' supernet.py)
    ranks: tuple[int, ...] = (8, 4)  # "8 and 4 in the largest model" (Sec. 3.1)
    ablated: tuple[str, ...] = ()  # tasks on which a fixed configuration loses its support tensors, `controls.ablation`
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
    left_out: str = ""  # the support tensors that a fixed configuration does without, as in "CDE"
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

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """Return the seeds that a method, a control or an experiment runs with in this profile."""
        return self.other_seeds.get(name, self.seeds)

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

        Options, SuperLoRA's recipe and support tensors that are left out are there where the method has any.
        """
        around = ("name", "tasks", "controlled", "few_shot", "shots", "sources", "seeds", "other_seeds", "other_ranks")
        around += ("ablated", "rates", "rows", "budgets", "budget_tasks", "methods", "layers", "parameters")
        around += ("results", "figures", "allow_dirty", "compared")
        around += ("superlora", "superlora_tasks", "superlora_settings", "superlora_rates", "superlora_divided")
        around += tuple(name for name in ("options", "left_out", "one_cycle") if not getattr(self, name))
        settings = {name: value for name, value in asdict(self).items() if name not in around}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
