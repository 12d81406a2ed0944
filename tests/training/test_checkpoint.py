"""Checkpoints: what they belong to, other devices, and writes that fail."""

import errno
import os
import random
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from glora_lib.glora.space import Space
from glora_lib.methods import METHODS
from glora_lib.runs.profiles import SMOKE
from glora_lib.training import checkpoint, files
from glora_lib.training.accuracy import accuracy
from glora_lib.training.batch import TrainingError
from glora_lib.training.loop import train


class Net(nn.Module):
    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.norm, self.dropout = nn.Linear(6, 8).requires_grad_(False), nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.dropout(self.norm(self.body(x))))


class Rows(Dataset):
    """Pictures in memory, as a task's splits are."""

    def __init__(self, images):
        self.raw, self.labels = images.raw, images.labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, places):
        return self.raw[places].flatten(1).float(), self.labels[places]


def data(shift: float = 0.0) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 6, generator=generator)
    return TensorDataset(x + shift, x[:, :3].argmax(-1))


def other_labels() -> TensorDataset:
    x, labels = data()[:]
    return TensorDataset(x, (labels + 1) % 3)


@pytest.mark.parametrize(
    ("model", "images", "what"),
    [
        (Net, lambda: data(1.0), "other data"),
        (Net, other_labels, "other data"),
        (lambda: Net(seed=1), data, "other frozen weights"),
    ],
    ids=["pixels", "labels", "backbone"],
)
def test_a_checkpoint_of_other_data_or_another_backbone_is_refused_and_kept(tmp_path, model, images, what):
    path = tmp_path / "train.pt"
    train(Net(), data(), SMOKE, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(TrainingError, match=f"was made for {what}"):
        train(model(), images(), SMOKE, checkpoint=path)
    assert path.read_bytes() == before


def test_a_supernet_s_checkpoint_knows_the_configurations_that_it_draws(tmp_path):
    path, ranks = tmp_path / "train.pt", (2, 1)

    def sampled(ranks):
        net = Net()
        net.use = lambda config: net
        space = Space(["layer"], ranks)
        return train(net, data(), SMOKE, sample=space.sample, checkpoint=path)

    whole = sampled(ranks)
    assert sampled(ranks) == whole  # the same space, made again
    for other in (lambda: sampled((2,)), lambda: train(Net(), data(), SMOKE, checkpoint=path)):
        with pytest.raises(TrainingError, match="was made for other configurations"):
            other()


def test_one_picture_of_many_and_an_option_of_the_model_make_another_training(tmp_path):
    path, labels = tmp_path / "train.pt", torch.arange(20) % 3
    pictures = torch.randint(256, (20, 3, 2, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures[7] = 5
    images = SimpleNamespace(raw=pictures, labels=labels)
    before = checkpoint.belonging(Net(), Rows(images))
    images.raw[7, 0, 0, 0] = 6
    assert checkpoint.belonging(Net(), Rows(images)) != before
    train(Net(), data(), SMOKE, checkpoint=path)
    other = Net()
    other.dropout.p = 0.4
    with pytest.raises(TrainingError, match="was made for other options"):
        train(other, data(), SMOKE, checkpoint=path)
    one, two = (
        METHODS["lora"](nn.Sequential(OrderedDict(body=nn.Linear(6, 8), head=nn.Linear(8, 3))), 2, scale=s) for s in (1.0, 2.0)
    )
    options = lambda model: checkpoint.belonging(model, data())["options"]  # noqa: E731
    assert options(one) != options(two)
    assert options(one) == options(nn.DataParallel(one))


def test_a_file_that_cannot_be_read_gets_no_advice_to_read_it_without_checks(tmp_path):
    (tmp_path / "html").write_text("<html>")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name, reason in (("html", "it is damaged, or no file of torch's"), ("empty", "it is empty"), ("folder", "is no file")):
        with pytest.raises(TrainingError, match=reason) as error:
            train(Net(), data(), SMOKE, checkpoint=tmp_path / name)
        assert "weights_only" not in str(error.value)
        assert ("delete" in str(error.value)) == (name != "folder")


@pytest.mark.parametrize("judge", ["train", "accuracy"])
def test_labels_without_an_output_are_an_error_wherever_they_are_met(judge):
    x, labels = data()[:]
    call = (lambda d: train(Net(), d, SMOKE)) if judge == "train" else (lambda d: accuracy(Net(), d))
    for wrong, message in ((labels + 1, "label 3 has no output: the model has 3"), (labels - 1, "label -1 has no output")):
        with pytest.raises(TrainingError, match=message):
            call(TensorDataset(x, wrong))
    with pytest.raises(TrainingError, match="labels must be whole numbers"):
        call(TensorDataset(x, labels.float()))
    with pytest.raises(TrainingError, match="the data have no examples"):
        call(TensorDataset(x[:0], labels[:0]))


def test_running_statistics_of_trained_norms_go_on_too(tmp_path):
    whole, halves = Net(), Net()
    expected = train(whole, data(), SMOKE)
    stop = lambda epoch: (_ for _ in ()).throw(KeyboardInterrupt) if epoch == 1 else {}  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        train(halves, data(), SMOKE, checkpoint=tmp_path / "train.pt", watch=stop)
    again = Net()
    history = train(again, data(), SMOKE, checkpoint=tmp_path / "train.pt")
    assert [epoch["loss"] for epoch in history] == [epoch["loss"] for epoch in expected]
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_a_gpu_s_checkpoint_is_read_on_a_processor(tmp_path, monkeypatch):
    path, expected, found = tmp_path / "train.pt", Net(), Net()
    train(expected, data(), SMOKE, checkpoint=path)
    state = torch.load(path, weights_only=True) | {"device": torch.zeros(16, dtype=torch.uint8)}  # a GPU's generator
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(state, path)
    with pytest.raises(RuntimeError, match="CUDA"):  # it says where its tensors were
        torch.load(path, weights_only=True)
    train(found, data(), SMOKE, checkpoint=path)
    assert torch.equal(found.head.weight, expected.head.weight)


def test_a_processor_s_checkpoint_leaves_the_optimizer_of_a_gpu_s_graph_as_it_is(tmp_path):
    """Its rate is a tensor, and its steps are counted on the device."""
    path, net = tmp_path / "train.pt", Net()
    train(net, data(), SMOKE, checkpoint=path)
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    rate = torch.tensor(1e-3)
    optimizer = torch.optim.AdamW(trained.values(), lr=rate, capturable=True)
    state = torch.load(path, weights_only=True)
    state["optimizer"]["param_groups"] = [state["optimizer"]["param_groups"][0] | {"params": list(range(len(trained)))}]
    assert state["optimizer"]["param_groups"][0]["capturable"] is False
    checkpoint.restore(path, state, trained, dict(net.named_buffers()), optimizer, torch.Generator(), random.Random())
    assert optimizer.param_groups[0]["capturable"] is True
    assert optimizer.param_groups[0]["lr"] is rate


OTHERS = {"dict": {"a": torch.ones(2)}, "list": [1, 2], "tensor": torch.ones(3), "part": {"settings": {}}}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_another_file_of_torch_is_no_checkpoint_and_is_not_called_damaged(tmp_path, content):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(TrainingError, match=r"weights.pt is no checkpoint of a training .*name another file"):
        train(Net(), data(), SMOKE, checkpoint=path)
    assert path.exists()


def write_half(path, error: Exception | None = None) -> None:
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        if error:
            raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), RuntimeError("[enforce fail at inline_container.cc]")])
def test_a_write_that_fails_names_the_file_keeps_the_old_one_and_leaves_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "train.pt"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="train.pt could not be written .*what was there before stays"):
        write_half(path, error)
    assert [file.name for file in tmp_path.iterdir()] == ["train.pt"]
    assert path.read_bytes() == b"before"
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert [file.name for file in tmp_path.iterdir()] == ["train.pt"]
