"""Pretrained backbones: the ViT-S/14 that a package ships, any timm architecture, a local ViT-B_16.npz, language models."""

from glora_lib.backbones.files import BackboneError
from glora_lib.backbones.language import SMOLLM2, language_label, language_sha256, load_language_model, save_language_model
from glora_lib.backbones.load import label, load_backbone, weights_sha256
from glora_lib.backbones.packaged import PACKAGED, PACKAGED_LABEL
from glora_lib.backbones.rounding import rounded_again
