"""One batch: the number format that a model computes in, gradients in as many parts as memory needs, checked outputs."""

import math
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from glora_lib.training.device import products

DTYPES = ("float32", "tf32", "bfloat16")
PART = 2**20  # numbers in the images whose activations are in memory at once, on a processor: 36 images of 98 pixels
BatchNorm = nn.modules.batchnorm._BatchNorm


class TrainingError(RuntimeError):
    """Training or evaluation cannot go on, or a checkpoint cannot be used; the message says why and what mends it."""


@contextmanager
def autocast(dtype: str, device: torch.device):
    """Return the context in which a model computes in `dtype`; weights stay as they are.

    "float32"; "bfloat16", by autocast; "tf32", float32 whose products a GPU computes from shortened factors (a processor has no
    TF32 and computes in float32).
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; valid: {', '.join(DTYPES)}")
    with products(dtype):
        if dtype != "bfloat16":
            yield
            return
        # on a processor the backward pass of the fused kernel is slow in bfloat16 for few tokens; the values are the same
        plain_attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
        # in a CUDA graph, what autocast keeps of weights would belong to the graph that is captured first
        with plain_attention, torch.autocast(device.type, torch.bfloat16, cache_enabled=device.type == "cpu"):
            yield


class Gradients:
    """Adds a batch's gradients to the parameters of a model, and remembers how small the parts must be for its memory.

    A processor takes a batch of more than `part_size` numbers (PART, unless said) in parts, whose gradients add up to the
    batch's: it is no slower for that, and memory holds the activations of one part. A GPU gets the whole batch, and halves it
    when memory does not do. A model that normalises over batches always gets the whole.
    """

    def __init__(self, model: nn.Module, dtype: str = "float32", part_size: int | None = None):
        self.model, self.dtype, self.part_size = model, dtype, part_size
        self.most: int | None = None  # images at once, where memory did not do for more

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the batch's mean cross-entropy, a scalar without a gradient.

        Raises TrainingError where even one image at once does not fit, or the outputs do not suit the labels; nothing has been
        added to the gradients then.
        """
        while True:
            before = self._gradients() if images.device.type == "cuda" else {}
            try:
                return self._add(images, labels)
            except torch.OutOfMemoryError as error:
                if images.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                    raise  # nothing may be freed or tried again while a graph is captured
                at_once = math.ceil(len(images) / self._parts(images))
                for parameter, gradient in before.items():
                    parameter.grad = gradient
                if self._indivisible() or at_once == 1:
                    why = "the model normalises over the batch" if self._indivisible() else "one image is the least"
                    raise TrainingError(
                        f"{at_once} images at once do not fit into the memory of {images.device}, and {why}; take smaller "
                        f"batches or images, or another device ({' '.join(str(error).split())[:120]})"
                    ) from error
                self.most = at_once // 2
            torch.cuda.empty_cache()

    def _add(self, images: Tensor, labels: Tensor) -> Tensor:
        parts, total = self._parts(images), 0.0
        for part, answers in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            with autocast(self.dtype, images.device):
                out = full(logits(self.model, part))
                if images.device.type == "cpu" or not torch.cuda.is_current_stream_capturing():
                    check_labels(answers, out.shape[1])
                loss = F.cross_entropy(out, answers) * (len(answers) / len(labels))
            loss.backward()
            total = total + (loss.detach() if images.device.type == "cuda" else loss.item())
        return total if isinstance(total, Tensor) else torch.tensor(total, dtype=torch.float64)

    def _parts(self, images: Tensor) -> int:
        if self._indivisible():
            return 1
        parts = parts_on_a_processor(images, self.part_size) if images.device.type == "cpu" else 1
        return max(parts, math.ceil(len(images) / self.most)) if self.most else parts

    def _indivisible(self) -> bool:
        return any(isinstance(module, BatchNorm) and module.training for module in self.model.modules())

    def _gradients(self) -> dict[nn.Parameter, Tensor | None]:
        """The gradients so far; a graph that is captured ran before, so that memory does, and must hold no copies."""
        if torch.cuda.is_current_stream_capturing():
            return {}
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return {parameter: None if parameter.grad is None else parameter.grad.clone() for parameter in trained}


def parts_on_a_processor(images: Tensor, part_size: int | None = None) -> int:
    """Return in how many parts, `images.chunk(parts)`, a processor takes these images; PART numbers each, unless said."""
    return math.ceil(images.numel() / (part_size or PART))


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return what the model makes of the images, a tensor (batch, classes); anything else it returns is a TrainingError.

    The images are taken in the dtype of the model's weights.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), images)
    out = model(images.to(like.dtype) if images.is_floating_point() else images)
    if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != len(images):
        found = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise TrainingError(
            f"{type(model).__name__} returned {found} for {len(images)} images; a tensor (images, classes) is needed: wrap the "
            "model in one whose forward returns the logits alone"
        )
    return out


def full(out: Tensor) -> Tensor:
    """Return outputs in float32 at least: a loss is no place for short numbers."""
    return out if out.dtype == torch.float64 else out.float()


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise a TrainingError for a label that the model has no output for."""
    if labels.is_floating_point():
        raise TrainingError(f"labels must be whole numbers, not {labels.dtype}; convert them: labels.long()")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise TrainingError(
            f"label {int(wrong)} has no output: the model has {classes}, for labels 0 to {classes - 1}; count labels from 0, "
            f"or give the model a head of {int(labels.max()) + 1}"
        )
