"""How good a subnet is on validation images, and no sooner than that matters: scoring stops when a floor is out of reach."""

import math

import torch
from torch.utils.data import Dataset

from glora_lib.model import AdaptedModel, fuse
from glora_lib.space import Config
from glora_lib.train import autocast


class Score:
    """The top-1 accuracy of a subnet, for `evolve`; with a floor it may stop and return None.

    Images that many subnets before got wrong come first, so that a subnet below the floor is soon found out. Their order
    changes how long that takes, never what is returned.

    Args:
        net: the supernet.
        data: the validation images.
        dtype: "float32" or "bfloat16", as in `accuracy`.
        chunk: images between two looks at the floor.

    Attributes:
        images_seen: how many images all calls together have put through the model.
    """

    def __init__(self, net: AdaptedModel, data: Dataset, dtype: str = "float32", chunk: int = 20):
        self.net, self.data, self.dtype, self.chunk = net, data, dtype, chunk
        self.wrong = torch.zeros(len(data))  # how often each image was answered wrongly,
        self.asked = torch.zeros(len(data))  # and how often it was shown
        self.images_seen = 0

    @torch.no_grad()
    def __call__(self, config: Config, floor: float | None = None) -> float | None:
        """Return the accuracy of `config` on all images, or None where it is below `floor`."""
        n, device = len(self.data), next(self.net.parameters()).device
        plain = fuse(self.net.use(config)).eval()  # the effective weights are formed once, not once a chunk
        allowed = n if floor is None else n - math.ceil(floor * n - 1e-9)  # errors with which the floor is still reached
        order = torch.argsort((self.wrong + 1) / (self.asked + 2), descending=True, stable=True)
        errors = 0
        for places in order.split(n if floor is None else self.chunk):
            images, labels = self.data[places.tolist()]
            with autocast(self.dtype, device):
                wrong = plain(images.to(device)).argmax(-1).cpu() != labels
            self.wrong[places] += wrong.float()
            self.asked[places] += 1
            self.images_seen += len(places)
            errors += int(wrong.sum())
            if errors > allowed:
                return None
        return (n - errors) / n
