"""Pretrained backbones: the ViT-S/14 that a package ships, any timm architecture, and a local ViT-B_16.npz."""

from glora_lib.backbones.files import BackboneError
from glora_lib.backbones.load import label, load_backbone, weights_sha256
from glora_lib.backbones.packaged import PACKAGED, PACKAGED_LABEL
