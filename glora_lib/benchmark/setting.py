"""What a benchmark is run on: a backbone, a size, and how often."""

import copy
from dataclasses import asdict, dataclass
from functools import cache, cached_property

import torch
from torch import Tensor, nn

from glora_lib.backbones import load_backbone
from glora_lib.runs.profile import Profile

CLASSES = 10  # of the heads, and of the task that is searched


@dataclass(frozen=True)
class Setting:
    """The size of a benchmark. With 7 x 7 patches of 14 pixels an image has 98 pixels and 50 tokens."""

    profile: Profile
    side: int = 7  # patches a side
    batch: int = 64
    rounds: int = 11
    epochs: int = 3  # of the supernet that is searched
    generations: int = 2  # of the search, after the random start
    seed: int = 0

    @cached_property
    def image_size(self) -> int:
        """Pixels a side."""
        loaded = _backbone(self.profile.backbone, self.profile.weights, self.profile.image_size)
        return self.side * loaded.patch_embed.patch_size[0]

    def backbone(self) -> nn.Module:
        """Return a new copy of the profile's backbone for images of the benchmark's size."""
        return copy.deepcopy(_backbone(self.profile.backbone, self.profile.weights, self.image_size))

    def images(self, number: int | None = None, image_size: int | None = None) -> tuple[Tensor, Tensor]:
        """Return random images (batch, 3, size, size) and labels (batch,), the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        number, size = number or self.batch, image_size or self.image_size
        images = torch.randn(number, 3, size, size, generator=generator)
        return images, torch.randint(CLASSES, (number,), generator=generator)

    def plain(self) -> dict:
        """Return the setting as a record keeps it: plain JSON types, and of the profile what matters here."""
        own = {name: value for name, value in asdict(self).items() if name != "profile"}
        recipe = self.profile.settings()
        names = ("backbone", "weights", "ranks", "scale_broadcast")
        return own | {name: recipe[name] for name in names} | {"searched": self.profile.tasks[0]}


@cache
def _backbone(name: str, weights: str, image_size: int) -> nn.Module:
    return load_backbone(name, classes=CLASSES, image_size=image_size, weights=weights)
