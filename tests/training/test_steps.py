"""Training by steps: the schedule is torch's, every example has its turn, and an interruption changes nothing."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from glora_lib.training.batch import TrainingError
from glora_lib.training.steps import Batches, one_cycle, run_steps

RECIPE = SimpleNamespace(batch_size=8, learning_rate=0.05, head_learning_rate=0.1, weight_decay=0.0, dtype="float32",
                         one_cycle={"steps": 20})  # fmt: skip


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    return TensorDataset(torch.randn(48, 5, generator=generator) + 2 * torch.eye(5)[labels], labels)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.3), nn.Linear(6, 3))


class Interrupted(Exception):
    pass


def test_one_cycle_is_torch_s_with_its_defaults():
    net, theirs = model().eval(), model().eval()
    net.train = lambda mode=True: net  # without dropout both draw alike
    history = one_cycle(net, data(), RECIPE, seed=3)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=20)
    for step in range(20):
        images, labels = data()[Batches(48, 8, 3)[step]]
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(images), labels).backward()
        optimizer.step()
        if step < 19:
            scheduler.step()
    assert all(torch.equal(*pair) for pair in zip(net.parameters(), theirs.parameters(), strict=True))
    assert [row["step"] for row in history] == list(range(1, 20, 2))
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["learning_rate"] == pytest.approx(0.05 / 25 / 1e4)
    assert max(row["learning_rate"] for row in history) == pytest.approx(0.05, rel=0.05)


def test_the_head_has_its_own_peak():
    net = nn.ModuleDict({"body": nn.Linear(5, 6), "head": nn.Linear(6, 3)})
    net.forward = lambda x: net["head"](net["body"](x))
    peaks = []
    step = torch.optim.SGD.step

    def watch(self, *args, **kwargs):
        peaks.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", watch)
        one_cycle(net, data(), RECIPE)
    assert max(peaks) == pytest.approx([0.05, 0.1], rel=0.02)


@pytest.mark.parametrize(("examples", "size"), [(48, 8), (10, 4), (3, 8)])
def test_every_example_has_its_turn_before_one_has_its_second(examples, size):
    batches = Batches(examples, size, seed=1)
    drawn = [index for step in range(3 * examples) for index in batches[step]]
    for epoch in range(3):
        assert sorted(drawn[epoch * examples : (epoch + 1) * examples]) == list(range(examples))
    assert Batches(examples, size, seed=1)[5] == batches[5]
    assert any(Batches(48, 8, seed=2)[step] != Batches(48, 8, seed=1)[step] for step in range(3))


@pytest.mark.parametrize("after", [1, 7, 15])
def test_an_interrupted_run_ends_as_one_that_was_not(after, tmp_path, monkeypatch):
    whole = model()
    history = one_cycle(whole, data(), RECIPE, seed=1)
    net, step, taken = model(), torch.optim.SGD.step, []

    def stop(self, *args, **kwargs):
        taken.append(1)
        if len(taken) > after:
            raise Interrupted
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", stop)
    with pytest.raises(Interrupted):
        one_cycle(net, data(), RECIPE, seed=1, checkpoint=tmp_path / "state.pt")
    monkeypatch.undo()
    again = model()
    resumed = one_cycle(again, data(), RECIPE, seed=1, checkpoint=tmp_path / "state.pt")
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), again.parameters(), strict=True))
    assert [row["loss"] for row in resumed] == [row["loss"] for row in history]
    third = model()
    assert one_cycle(third, data(), RECIPE, seed=1, checkpoint=tmp_path / "state.pt") == resumed  # finished: nothing to do
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), third.parameters(), strict=True))


def test_what_cannot_go_on_says_why(tmp_path):
    path = tmp_path / "state.pt"
    one_cycle(model(), data(), RECIPE, checkpoint=path)
    with pytest.raises(TrainingError, match=r"made with other settings, .*'seed': \(0, 5\)"):
        one_cycle(model(), data(), RECIPE, seed=5, checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"(?s)cannot be read .* delete it to start again"):
        one_cycle(model(), data(), RECIPE, checkpoint=path)
    with pytest.raises(TrainingError, match="no parameter of this model requires a gradient"):
        one_cycle(model().requires_grad_(False), data(), RECIPE)
    p = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=0.1)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    with pytest.raises(TrainingError, match="the loss is nan at step 0, learning rate 1.0e-01; lower the rate"):
        run_steps({"p": p}, lambda number: float("nan"), optimizer, constant, 3)
