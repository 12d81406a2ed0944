"""Settings of SuperLoRA's experiments on generated images and texts, as `profile` has the others."""

from dataclasses import asdict, dataclass, field, replace

from glora_lib.runs.profile import Profile
from glora_lib.runs.profiles import PROFILES


@dataclass(frozen=True)
class TransferProfile:
    """What both experiments have. `Run` takes it as its profile; each method's options are in `methods`."""

    name: str
    model: str
    names: tuple[str, ...]  # settings by name that are run, () for all; with every seed those in `repeated`
    repeated: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    dtype: str = "float32"
    rates: tuple[float, ...] = ()  # learning rates that were compared on held-out data
    options: dict = field(default_factory=dict)
    methods: dict[str, dict] = field(default_factory=dict)

    for_method = Profile.for_method

    @property
    def results(self) -> str:
        return PROFILES[self.name].results

    @property
    def figures(self) -> str:
        return PROFILES[self.name].figures

    @property
    def evolution(self) -> dict:
        """Nothing is searched."""
        return {}

    def settings(self) -> dict:
        """Return what one run depends on as plain JSON types, for a record."""
        around = ("name", "names", "repeated", "seeds", "rates", "methods")
        return {name: value for name, value in asdict(self).items() if name not in around}


@dataclass(frozen=True)
class ImageProfile(TransferProfile):
    """Digits over photographs to plain digits, Sec. 4.2. What the paper trains with is in an appendix that is not at hand."""

    source: str = "mnist_colours"  # what the source model was trained on, `data.digits.KINDS`; "svhn" from VTAB's folder
    source_steps: int = 2000
    source_batch: int = 48
    source_rate: float = 1e-3
    held_out: int = 1000  # digits whose noise loss is reported
    pictures: int = 300  # generated for the scores, classes in turn
    sampling_steps: int = 20
    guidance: float = 1.0


@dataclass(frozen=True)
class TextProfile(TransferProfile):
    """E2E NLG, Sec. 4.3: LoRA's recipe on GPT-2 medium, five epochs of 42,061 references in batches of 8, beam 10."""

    warmup: int = 500  # steps
    smoothing: float = 0.1  # of labels
    train: int | None = None  # references, the first after a shuffle; None for all
    held_out: int = 100  # references of the development set whose loss is reported
    new_tokens: int = 64
    meteor: bool = True
    # beams -> how many of the test's meaning representations are answered with so many; None for all 630
    beams: dict[str, int | None] = field(default_factory=lambda: {"10": None, "1": None})
    length_penalty: float = 0.9
    no_repeat: int = 4  # tokens in a row that do not come twice


IMAGES_PAPER = ImageProfile(
    "paper", "unet", (), source="svhn", source_steps=50_000, source_batch=128, steps=5000, pictures=5000
)
IMAGES_CPU = replace(
    IMAGES_PAPER, name="cpu", source="mnist_colours", source_steps=2000, source_batch=32, source_rate=2e-3, steps=100,
    batch_size=24, pictures=200, sampling_steps=10, learning_rate=3e-3, rates=(3e-3, 1e-2),
    repeated=("dense", "LoRA r=1", "2D fold G=1 r=4", "LoKr K=2 side=6 r=4", "LoNKr K=3 side=6 r=4"),
)  # fmt: skip
IMAGES_SMOKE = replace(
    IMAGES_CPU, name="smoke", model="unet, random", source_steps=2, steps=2, batch_size=4, pictures=20, held_out=20,
    sampling_steps=2, seeds=(0,), names=("dense", "LoRA r=1", "2D fold G=1 r=1", "LoKr K=2 side=8 r=4"),
)  # fmt: skip
IMAGES = {
    profile.name: profile
    for profile in (IMAGES_SMOKE, IMAGES_CPU, replace(IMAGES_PAPER, name="gpu", source="mnist_colours"), IMAGES_PAPER)
}

TEXTS_PAPER = TextProfile(
    "paper", "gpt2-medium", (), repeated=("FT Wq Wv", "LoRA r=4", "SuperLoRA r=9"), steps=5 * 42_061 // 8, batch_size=8,
    learning_rate=2e-4, weight_decay=0.01,
)  # fmt: skip
TEXTS_CPU = replace(
    TEXTS_PAPER, name="cpu", model="smollm2_135m_instruct", steps=12, batch_size=4, train=48, held_out=24, warmup=2,
    learning_rate=2e-3, dtype="bfloat16", new_tokens=48, rates=(5e-4, 2e-3),
    beams={"1": 24},  # ten beams for 8 lists take longer than the training
)  # fmt: skip
TEXTS_SMOKE = replace(
    TEXTS_CPU, name="smoke", model="random", names=("FT Wq Wv", "LoRA r=1"), repeated=("LoRA r=1",), seeds=(0,), steps=2,
    batch_size=4, warmup=1, dtype="float32", new_tokens=8, beams={"1": 2, "10": 1},
    meteor=False,
)  # fmt: skip
TEXTS_GPU = replace(TEXTS_PAPER, name="gpu", model="smollm2_135m_instruct", dtype="bfloat16")
TEXTS = {profile.name: profile for profile in (TEXTS_SMOKE, TEXTS_CPU, TEXTS_GPU, TEXTS_PAPER)}
