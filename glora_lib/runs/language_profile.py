"""Settings of the language experiments, as `profile` has the others: PAPER is App. A of GLoRA, the rest is the difference."""

from dataclasses import asdict, dataclass, field, replace

from glora_lib.runs.profile import Profile


@dataclass(frozen=True)
class LanguageProfile:
    """Every setting of a language run; a `Run` takes it as its profile. `for_method` gives it with a method's own recipe."""

    name: str
    model: str = "llama-7b"  # a folder in Hugging Face's layout in GLORA_DATA_DIR, or what `load_language_model` knows
    dtype: str = "bfloat16"  # of computation in training, and of the weights in evaluation
    weights_dtype: str = "bfloat16"  # of the frozen weights in training
    checkpointing: bool = True
    # what is trained on, and what is scored
    instructions: tuple[str, ...] = ("alpaca_52k.json",)  # files, or what `load_instructions` knows
    length: int = 512  # the most tokens that a text may have; longer ones are left out
    tokens: int | None = None  # train on the first of the others that have as many together; None for all that are left
    held_out: int = 1000  # the texts after those, whose loss is reported
    # benchmark -> numbers of examples in front (shots), of validation and of test questions; see `load_questions`
    questions: dict = field(
        default_factory=lambda: {
            "arc": (25, 58, -1),
            "hellaswag": (10, 50, -1),
            "mmlu": (5, 12, -1),
            "truthfulqa": (0, 41, -1),
        }
    )
    # the untrained model alone: what is held against published numbers, and what the harness' own model class answers too
    published: dict = field(default_factory=lambda: {"arc": (0, 0, -1), "arc_easy": (0, 0, -1), "hellaswag": (0, 0, -1)})
    agreement: dict = field(
        default_factory=lambda: {"arc": (2, 0, 14), "hellaswag": (2, 0, 12), "mmlu-2": (2, 0, 6), "truthfulqa": (0, 0, 12)}
    )
    selection_shots: bool = True  # whether the questions that select have examples in front, too
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = ()  # learning rates that are tried, `language.recipes`
    # the supernet: attention alone; rank as in the authors' fork
    ranks: tuple[int, ...] = (4,)
    scale_broadcast: bool = False
    epochs: int = 15
    batch_size: int = 4
    accumulate: int = 8  # batches a step: an effective batch of 32
    learning_rate: float = 2e-5
    head_learning_rate: float = 2e-5  # no head is trained
    weight_decay: float = 0.0
    warmup_epochs: float = 0.0
    first_learning_rate: float = 0.0
    final_learning_rate: float = 0.0
    update_unsampled: bool = False
    # the search
    population: int = 50
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    probability: float = 0.2
    generations: int = 5
    limit: int | None = None
    options: dict = field(default_factory=dict)
    methods: dict[str, dict] = field(default_factory=lambda: {"lora": {"epochs": 3, "options": {"rank": 4}}})

    evolution = Profile.evolution
    for_method = Profile.for_method

    @property
    def rank(self) -> int:
        """The rank that the support tensors are stored with: the largest of `ranks`."""
        return max(self.ranks)

    def settings(self) -> dict:
        """Return what one run depends on as plain JSON types, for a record."""
        around = ("name", "instructions", "published", "agreement", "seeds", "rates", "methods")
        settings = {name: value for name, value in asdict(self).items() if name not in around}
        settings["questions"] = {name: list(sizes) for name, sizes in self.questions.items()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


PAPER = LanguageProfile(name="paper")
GPU = replace(
    PAPER,
    name="gpu",
    model="smollm2_135m_instruct",
    checkpointing=False,
    instructions=("alpaca_999", "alpaca_2000"),
    held_out=64,
    questions={"arc": (25, 58, 500), "hellaswag": (10, 50, 500), "mmlu-20": (5, 4, 25), "truthfulqa": (0, 41, 500)},
    weights_dtype="float32",
    learning_rate=1e-3,  # 2e-5 moves nothing in so few steps
    batch_size=16,
    accumulate=2,
)
CPU = replace(
    GPU,
    name="cpu",
    length=256,
    tokens=4_000,
    held_out=16,
    questions={"arc": (25, 3, 32), "hellaswag": (10, 1, 12), "mmlu-2": (5, 1, 8), "truthfulqa": (0, 2, 16)},
    published={"arc": (0, 0, 200), "arc_easy": (0, 0, 200), "hellaswag": (0, 0, 100)},
    selection_shots=False,
    rates=(1e-3, 4e-3),
    scale_broadcast=True,
    epochs=2,
    batch_size=4,
    accumulate=1,
    population=3,
    parents=2,
    mutations=2,
    crossovers=1,
    methods={"lora": {"epochs": 1, "learning_rate": 4e-3, "options": {"rank": 4}}},
)
SMOKE = replace(
    CPU,
    name="smoke",
    model="random",
    dtype="float32",
    instructions=("tiny",),
    length=400,  # bytes
    tokens=2_000,
    held_out=4,
    questions={"sums": (2, 4, 6)},
    published={"sums": (0, 0, 20)},
    agreement={"sums": (2, 0, 10)},
    seeds=(0,),
    rates=(1e-2,),
    learning_rate=1e-2,
    generations=1,
)
LANGUAGE = {profile.name: profile for profile in (SMOKE, CPU, GPU, PAPER)}
