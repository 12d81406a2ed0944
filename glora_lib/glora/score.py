"""How good a subnet is on validation images, and no sooner than that matters: scoring stops when a floor is out of reach."""

import math
from collections.abc import Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset

from glora_lib.glora.class_token import class_token_alone
from glora_lib.glora.generation import Generation
from glora_lib.glora.model import AdaptedModel, formed
from glora_lib.glora.space import Config, Space
from glora_lib.training.accuracy import check_finite
from glora_lib.training.batch import autocast, check_labels, logits
from glora_lib.training.checkpoint import belonging
from glora_lib.training.device import free
from glora_lib.training.loop import at


class Score:
    """The top-1 accuracy of a subnet, for `evolve`; with a floor it may stop and return None.

    Images that many subnets before got wrong come first, so that a subnet below the floor is soon found out. Their order
    changes how long that takes, never what is returned.

    Args:
        net: the supernet.
        data: the validation images.
        dtype: "float32" or "bfloat16", as in `accuracy`.
        least: the fewest images between two looks at the floor; there are more where fewer cannot decide.
        most: the most images at once; of 98 pixels on two cores, 200 at once took 15 % longer than four times 50.

    Attributes:
        images_seen: how many images all calls together have put through the model.
    """

    def __init__(self, net: AdaptedModel, data: Dataset, dtype: str = "float32", least: int = 10, most: int = 50):
        self.net, self.dtype, self.least, self.most = net, dtype, least, most
        self.device = next(net.parameters()).device
        self.data = at(data, self.device)
        self.wrong = torch.zeros(len(data))  # how often each image was answered wrongly,
        self.asked = torch.zeros(len(data))  # and how often it was shown
        self.images_seen = 0
        self.generation: Generation | None = None  # the supernet with masks, once it was asked for
        self.fits: float = math.inf  # subnets at once that memory does for

    @property
    def belongs(self) -> str:
        """What the scores belong to, for a search's checkpoint: the images and the weights as they are."""
        return str(belonging(self.net, self.data, trained=True))

    @torch.no_grad()
    def __call__(self, config: Config, floor: float | None = None) -> float | None:
        """Return the accuracy of `config` on all images, or None where it is below `floor`.

        Outputs that are not finite are a TrainingError.
        """
        n = len(self.data)
        allowed = n if floor is None else n - math.ceil(floor * n - 1e-9)  # errors with which the floor is still reached
        order = torch.argsort((self.wrong + 1) / (self.asked + 2), descending=True, stable=True)
        errors = seen = 0
        with self._ready(config):
            while seen < n:
                places = order[seen : seen + min(self.most, max(self.least, allowed + 1 - errors))]
                wrong = self._wrong(places)
                self.wrong[places] += wrong.float()
                self.asked[places] += 1
                self.images_seen += len(places)
                seen, errors = seen + len(places), errors + int(wrong.sum())
                if errors > allowed:
                    return None
        return (n - errors) / n

    @torch.no_grad()
    def all(self, configs: Sequence[Config], space: Space, together: int = 25) -> list[float]:
        """Return the accuracy of each configuration of the space, `together` of them scored as one batch.

        On a GPU it is much the faster way: small products become large ones. Where memory does not do, half as many are scored
        at once, from then on; where it does not do for one, one by one. Outputs that are not finite are a TrainingError.
        """
        images, labels = self.data[list(range(len(self.data)))]
        images, labels, right = images.to(self.device), labels.to(self.device), []
        while len(right) < len(configs):
            together = int(min(together, self.fits))
            if together == 0:
                right += [self(config) for config in configs[len(right) :]]
                break
            part = list(configs[len(right) : len(right) + together])
            asked = len(part)
            part += [part[0]] * (together - asked if self.device.type == "cuda" else 0)  # a graph for each shape
            try:
                self.generation = self.generation or Generation(self.net, space, self.dtype)
                out = self.generation(part, images)
            except torch.OutOfMemoryError:
                self.fits = together // 2
            if self.fits < together:  # not while the error holds what did not fit
                self.generation = None
                free()
                continue
            check_finite(out.isfinite().all(-1).all(-1))
            check_labels(labels, out.shape[-1])
            right += (out.argmax(-1) == labels).double().mean(-1).tolist()[:asked]
            self.images_seen += asked * len(labels)
        return right

    @contextmanager
    def _ready(self, config: Config):
        """The subnet in evaluation mode, computing nothing twice and nothing that its answer does not depend on."""
        was_training = self.net.training
        self.net.use(config).eval()
        try:
            with formed(self.net), class_token_alone(self.net.model):
                yield
        finally:
            self.net.train(was_training)

    def _wrong(self, places: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Return whether the model's answer is wrong, image by image."""
        images, labels = self.data[places.tolist()]
        with autocast(self.dtype, self.device):
            out = logits(self.net, images.to(self.device))
        if self.device.type == "cpu":  # a GPU would be waited for
            check_labels(labels, out.shape[1])
        check_finite(out.isfinite().all(-1))
        return (out.argmax(-1) != labels.to(self.device)).cpu()
