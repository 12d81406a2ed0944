"""A small U-Net that predicts the noise in pictures of digits, for diffusion with classes; and its source weights.

diffusers' UNet2DModel on 28 x 28 x 3 pictures folded to 14 x 14 x 12, with attention at both resolutions, 0.7 million
parameters, ten classes and one that stands for none (classifier-free guidance).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glora_lib.backbones.files import BackboneError, sha256
from glora_lib.runs.paths import ROOT

CLASSES, NONE = 10, 10  # the label that stands for no class
FOLD = 2  # pixels of a square that become channels
UNET = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 16}
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of each attention
SOURCE = ROOT / "data" / "models" / "unet_source.safetensors"


class UNet(nn.Module):
    """Predicts the noise in pictures at a time of the diffusion, given their classes."""

    def __init__(self):
        super().__init__()
        from diffusers import UNet2DModel  # slow to import, and only these notebooks need it

        down, up = ("AttnDownBlock2D",) * 2, ("AttnUpBlock2D",) * 2
        self.net = UNet2DModel(
            sample_size=28 // FOLD, in_channels=3 * FOLD**2, out_channels=3 * FOLD**2, down_block_types=down, up_block_types=up,
            num_class_embeds=CLASSES + 1, **UNET,
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b 3 28 28"], time: Int64[Tensor, " b"], labels: Int64[Tensor, " b"]) -> Tensor:
        place = next(self.parameters()).device  # pictures and times are drawn on the processor, the same on every machine
        noise = self.net(F.pixel_unshuffle(x.to(place), FOLD), time.to(place), class_labels=labels.to(place)).sample
        return F.pixel_shuffle(noise, FOLD).to(x.device)


def attention_layers(model: nn.Module) -> list[str]:
    """Return the names of all projections inside attentions, in the model's order."""
    return [name for name, _ in model.named_modules() if "attentions" in name and name.endswith(PROJECTIONS)]


def new_unet(seed: int = 0) -> UNet:
    """Return a U-Net with random weights from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet()


def load_unet(path: Path = SOURCE) -> UNet:
    """Return the U-Net with weights from a file, `SOURCE` unless another is given.

    Raises BackboneError for a file that is missing or does not fit.
    """
    if not path.exists():
        raise BackboneError(f"there is no {path.name}; make it with runs.image_generation.prepare, or restore it")
    model = UNet()
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except Exception as error:
        raise BackboneError(f"{path.name} does not fit this U-Net: {' '.join(str(error).split())[:300]}") from error
    return model


def save_unet(model: nn.Module, path: Path = SOURCE) -> str:
    """Write a U-Net's weights as half precision, which keeps the file small; return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}, path)
    return sha256(path)
