"""What a model says of every example of a data set, and its top-1 accuracy."""

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from glora_lib.training.batch import TrainingError, autocast, check_labels, logits
from glora_lib.training.loop import at


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset, *, batch_size: int = 250, dtype: str = "float32") -> float:
    """Return the top-1 accuracy of `model` on all of `data`, between 0 and 1, in evaluation mode.

    Raises as `predict`, and TrainingError for a label that the model has no output for.
    """
    classes, outputs = _answers(model, data, batch_size, dtype)
    labels = _labels(data, batch_size)
    check_labels(labels, outputs)
    return float((classes == labels.cpu()).double().mean())


@torch.no_grad()
def predict(model: nn.Module, data: Dataset, *, batch_size: int = 250, dtype: str = "float32") -> Tensor:
    """Return the predicted class of every example, (N,) int64 on the processor, in evaluation mode.

    Raises TrainingError for outputs that are not finite, which have no largest class, for a model that returns no logits, and
    for data without examples.
    """
    return _answers(model, data, batch_size, dtype)[0]


def _answers(model: nn.Module, data: Dataset, batch_size: int, dtype: str) -> tuple[Tensor, int]:
    """Return what `predict` does, and how many classes the model has."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    classes, finite = [], []
    try:
        with autocast(dtype, device):
            for images, _ in _in_order(at(data, device), batch_size):
                out = logits(model, images.to(device))
                classes.append(out.argmax(-1))
                finite.append(out.isfinite().all(-1))
    finally:
        model.train(was_training)
    check_finite(torch.cat(finite))
    return torch.cat(classes).cpu(), out.shape[1]


def check_finite(finite: Tensor) -> None:
    """Raise a TrainingError unless the outputs of every example, (N,) bool, are finite."""
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise TrainingError(
            f"the outputs for {int((~finite).sum())} of {len(finite)} examples are not finite, the first is number {first}; "
            "such a model predicts nothing: look for NaN or infinity in its weights or in the data"
        )


def _in_order(data: Dataset, batch_size: int) -> DataLoader:
    return DataLoader(data, sampler=BatchSampler(SequentialSampler(data), batch_size, drop_last=False), batch_size=None)


def _labels(data: Dataset, batch_size: int) -> torch.Tensor:
    labels = getattr(data, "labels", None)  # saves decoding the images again
    return labels if labels is not None else torch.cat([labels for _, labels in _in_order(data, batch_size)])
