"""A batch: parts where memory is short, and outputs and labels that do not suit each other."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from glora_lib.runs.profiles import SMOKE
from glora_lib.training.accuracy import accuracy, predict
from glora_lib.training.batch import Gradients, TrainingError
from glora_lib.training.loop import train


class Narrow(nn.Linear):
    """A layer for whose batches memory does only up to a number of examples."""

    most = 4

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


def data(examples: int = 12) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 6, generator=generator)
    return TensorDataset(x, (x[:, :3]).argmax(-1))


def test_a_batch_that_memory_does_not_hold_is_taken_in_parts_with_the_same_gradients():
    net, plain = Narrow(6, 3).double(), nn.Linear(6, 3).double()
    plain.load_state_dict(net.state_dict())
    x, labels = data()[:]
    net.weight.grad = torch.ones_like(net.weight)  # what was there before counts once
    losses = [Gradients(model)(x, labels) for model in (net, plain)]
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(net.weight.grad - 1, plain.weight.grad)
    gradients = Gradients(net)
    gradients(x, labels)
    assert gradients.most == 3  # 12 and 6 were too many; later batches start from what did


@pytest.mark.parametrize("normalises", [False, True])
def test_where_not_even_one_example_fits_the_error_names_the_device_and_nothing_was_added(normalises):
    net = Narrow(6, 3)
    net.most = 0
    if normalises:
        net = nn.Sequential(net, nn.BatchNorm1d(3))
    with pytest.raises(TrainingError, match="do not fit into the memory of cpu, and (one image|the model normalises)"):
        Gradients(net.train())(*data()[:])
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("label", [5, -1])
def test_a_label_without_an_output_is_named_with_the_valid_ones(label):
    x, labels = data()[:]
    labels[3] = label
    with pytest.raises(TrainingError, match=f"label {label} has no output: the model has 3, for labels 0 to 2"):
        train(nn.Linear(6, 3), TensorDataset(x, labels), SMOKE)


class Packed(nn.Module):
    """Returns an object instead of logits, as models of other libraries do."""

    def __init__(self, shape):
        super().__init__()
        self.layer, self.shape = nn.Linear(6, 3), shape

    def forward(self, x):
        return {"logits": self.layer(x)} if self.shape is None else self.layer(x).reshape(self.shape)


@pytest.mark.parametrize(("shape", "found"), [(None, "a dict"), ((-1,), r"a tensor \(36,\)")])
def test_outputs_that_are_no_logits_are_refused_in_training_and_in_evaluation(shape, found):
    for use in (lambda: train(Packed(shape), data(), SMOKE), lambda: predict(Packed(shape), data())):
        with pytest.raises(TrainingError, match=f"Packed returned {found} for 12 images.*wrap the model"):
            use()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_images_are_taken_in_the_dtype_of_the_weights(dtype):
    net = nn.Linear(6, 3).to(dtype)
    assert 0 <= accuracy(net, data()) <= 1
    train(net, data(), SMOKE)


def test_outputs_that_are_not_finite_are_no_predictions():
    net = nn.Linear(6, 3)
    with torch.no_grad():
        net.weight[1, 2] = torch.inf
    x, labels = data()[:]
    x[:4, 2] = 0  # 0 times infinity is not a number either
    for use in (predict, accuracy):
        with pytest.raises(TrainingError, match="the outputs for 12 of 12 examples are not finite, the first is number 0"):
            use(net, TensorDataset(x, labels))
    assert net.training


class Single(Dataset):
    """Indexed with one number alone, as torchvision's folders are."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return [torch.zeros(6), torch.ones(6)][index], index % 2


def test_data_that_give_no_batch_for_a_list_of_indices_are_refused():
    for use in (lambda: train(nn.Linear(6, 3), Single(), SMOKE), lambda: predict(nn.Linear(6, 3), Single())):
        with pytest.raises(TrainingError, match=r"Single\[\[0\]\] gives no batch .*must take a list of indices"):
            use()
