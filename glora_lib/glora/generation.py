"""A generation of the search as one batch: many subnets of one supernet answer the same images in the same kernels."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glora_lib.glora.class_token import class_token_alone
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.masked import STORAGE, Masks
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Config, Space
from glora_lib.training.batch import autocast
from glora_lib.training.graph import Graphed
from glora_lib.training.joined import join_blocks


class Generation:
    """The supernet with masks in place of branches; it shares the supernet's tensors and follows them.

    Args:
        net: a supernet whose layers are all of the kind "linear"; else Unsuited, a ValueError.
        dtype: what is computed in, as in `training.accuracy.accuracy`.
    """

    def __init__(self, net: AdaptedModel, space: Space, dtype: str = "float32"):
        self.device = next(net.parameters()).device
        self.dtype, self.masks = dtype, Masks(space, net.rank, self.device, prefix="")
        shared = {id(tensor): tensor for tensor in [*net.parameters(), *net.buffers()]}
        self.model = copy.deepcopy(net.model, memo=shared).eval()
        self.layers = {name: self.model.get_submodule(name) for name in self.masks.layers}
        for name, layer in self.layers.items():
            self.model.set_submodule(name, _Masked(self.masks, layer, name))
        joined = join_blocks(self.model)
        # where all adapted layers are in the blocks, what comes before these is the same for all subnets, and computed once
        self.joined = joined if all(name.startswith("blocks.") for name in self.layers) else None
        self.answer = Graphed(self._answer, self.device)

    @torch.no_grad()
    def __call__(self, configs: Sequence[Config], images: Tensor) -> Tensor:
        """Return the logits (subnets, images, classes) of each configuration on all images (images, 3, S, S)."""
        codes = torch.tensor([self.masks.codes(config) for config in configs], device=self.device)
        return self.answer(codes, images)

    def _answer(self, codes: Tensor, images: Tensor) -> Tensor:
        self.masks.set(codes)
        if self.joined is None:
            images = images.expand(len(codes), *images.shape).flatten(0, 1)
        else:
            self.joined.copies = len(codes)
        tensors = {f"{name}.{kind}": getattr(layer, kind)[None] for name, layer in self.layers.items() for kind in STORAGE}
        with autocast(self.dtype, self.device), class_token_alone(self.model), self.masks.formed(tensors):
            return self.model(images).unflatten(0, (len(codes), -1))


class _Masked(nn.Module):
    """A GLoRA layer in the configuration of each subnet, for a batch that is folded: (subnets * images, ..., d1)."""

    def __init__(self, masks: Masks, layer: GLoRALinear, name: str):
        super().__init__()
        self.masks, self.form = masks, masks.form(layer, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.form({}, x.unflatten(0, (len(self.masks.masks), -1))).flatten(0, 1)
