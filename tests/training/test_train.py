"""The training loop: what moves, how fast, what is refused, and that an interruption changes nothing."""

import math
import random
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn, profiler
from torch.utils.data import TensorDataset

from glora_lib.glora.adapt import adapt
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Choice, Space
from glora_lib.runs.profiles import PROFILES
from glora_lib.training import deadline
from glora_lib.training.accuracy import accuracy, predict
from glora_lib.training.batch import Gradients, TrainingError, autocast
from glora_lib.training.loop import train

RECIPE = replace(
    PROFILES["smoke"].for_method("glora"),
    epochs=6,
    batch_size=16,
    learning_rate=5e-3,
    head_learning_rate=2e-2,
    warmup_epochs=1,
    final_learning_rate=1e-4,
)


class Toy(nn.Module):
    """Two linear layers, dropout, and a head."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x))


def toy_data(images: int = 70) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, 6, generator=generator)
    return TensorDataset(x, (x[:, :3] * 2).argmax(-1))


def supernet(dropout: float = 0.0, rank: int = 4) -> AdaptedModel:
    torch.manual_seed(0)
    return adapt(Toy(dropout), rank=rank, scale_broadcast=True)


def parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def without_seconds(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sampled", [True, False], ids=["supernet", "fixed"])
def test_the_loss_falls_and_only_what_is_trainable_moves(sampled, dtype):
    net, space = supernet(), Space(["body.0", "body.3"], (4, 2))
    if not sampled:
        net.use(space.uniform(Choice("vector", "lora4", "vector", "vector", "vector")))
    before = parameters(net)
    recipe = replace(RECIPE, epochs=12, dtype=dtype)
    history = train(net, toy_data(), recipe, sample=space.sample if sampled else None)
    assert [epoch["epoch"] for epoch in history] == list(range(12))
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved <= trained
    assert {"model.head.weight", "model.body.0.Bd", "model.body.3.E"} <= moved
    assert accuracy(net, toy_data()) > 0.6
    assert not net.training


def test_every_step_sets_the_rate_and_the_head_has_its_own(monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def watched(optimizer, *args, **kwargs):
        rates.append([group["lr"] for group in optimizer.param_groups])
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    net = supernet()
    history = train(net, toy_data(70), RECIPE, sample=Space(net.layer_names, (4,)).sample)
    assert len(rates) == 6 * 5  # the last, smaller batch is kept
    others, head = zip(*rates, strict=True)
    assert others[0] == head[0] == pytest.approx(RECIPE.first_learning_rate)
    assert (others[5], head[5]) == (RECIPE.learning_rate, RECIPE.head_learning_rate)  # the end of the warm-up
    assert max(others) == RECIPE.learning_rate
    assert max(head) == RECIPE.head_learning_rate
    assert len(set(others)) == len(others)
    assert others[-1] > RECIPE.final_learning_rate
    assert history[-1]["learning_rate"] == others[-1]


def drift(update_unsampled: bool) -> tuple[dict, dict]:
    """Train A for an epoch and then E alone; return the tensors before and after the second part."""
    net = supernet()
    first, later = net.use(net.config).config, dict.fromkeys(net.layer_names, Choice(E="vector"))
    first = dict.fromkeys(first, Choice(A="lora4", E="vector"))
    steps, middle = [0], {}

    def sample(rng):
        steps[0] += 1
        if steps[0] == 6:
            middle.update(parameters(net))
        return first if steps[0] < 6 else later

    train(net, toy_data(80), replace(RECIPE, epochs=4, weight_decay=1e-4, update_unsampled=update_unsampled), sample=sample)
    return middle, parameters(net)


def test_tensors_that_a_step_did_not_sample_stay_where_they_are():
    before, after = drift(update_unsampled=False)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"model.head.weight", "model.head.bias", "model.body.0.E", "model.body.3.E"}


def test_the_switch_restores_the_drift_of_old_torch():
    """Zeroed gradients let AdamW's momentum and weight decay go on (behaviour.md, C.2)."""
    before, after = drift(update_unsampled=True)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"model.body.0.Ad", "model.body.3.Au"} <= moved
    assert not any("Bd" in name or name.endswith(".D") for name in moved)  # zero, and never had a gradient


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint_kept(tmp_path):
    checkpoint, net = tmp_path / "train.pt", supernet()
    states = []

    class Bursting(TensorDataset):
        def __getitem__(self, index):
            images, labels = super().__getitem__(index)
            return (images * float("nan"), labels) if len(states) == 2 else (images, labels)

    def watch(epoch):
        states.append(parameters(net))
        return {}

    with pytest.raises(TrainingError, match=r"the loss is nan at epoch 2, step 0.*state after 2 whole epochs is in .*train.pt"):
        train(net, Bursting(*toy_data().tensors), RECIPE, checkpoint=checkpoint, watch=watch)
    assert all(torch.isfinite(tensor).all() for tensor in net.state_dict().values())
    kept = torch.load(checkpoint, weights_only=True)
    assert [epoch["epoch"] for epoch in kept["history"]] == [0, 1]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in kept["parameters"].items())


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("update_unsampled", [True, False])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, update_unsampled):
    """With dropout, sampled configurations, shuffling and a watcher that evaluates: everything that uses chance."""
    recipe, data = replace(RECIPE, update_unsampled=update_unsampled), toy_data()
    checkpoint = tmp_path / "train.pt"

    def run(stops: tuple[int, ...], checkpoint=None) -> tuple[dict, list[dict]]:
        net = supernet(dropout=0.3)
        space = Space(net.layer_names, (4, 2))
        calls = [0 if checkpoint is None else -3]  # a checkpoint knows the sampler by three draws

        def sample(rng):
            calls[0] += 1
            if calls[0] in stops:
                raise Interrupt
            return space.sample(rng)

        def watch(epoch):
            return {"val": accuracy(net.use(space.uniform(Choice(B="lora2"))), data)}

        history = train(net, data, recipe, sample=sample, seed=3, checkpoint=checkpoint, watch=watch)
        return parameters(net), without_seconds(history)

    expected = run(())
    for stop in (12, 8, 3):  # in the third epoch; in the next but one that began anew; at once
        torch.manual_seed(99), random.seed(99)  # another process' generators
        with pytest.raises(Interrupt):
            run((stop,), checkpoint)
    torch.manual_seed(7)
    state, history = run((), checkpoint)
    assert history == expected[1]
    assert same(state, expected[0])
    again, history = run((1,), checkpoint)  # finished: loads, and does not train again
    assert same(again, expected[0])
    assert history == expected[1]
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_other_seeds_give_other_results_and_the_same_seed_the_same():
    def run(seed):
        net = supernet(dropout=0.1)
        train(net, toy_data(), RECIPE, sample=Space(net.layer_names, (4,)).sample, seed=seed)
        return parameters(net)

    assert same(run(1), run(1))
    assert not same(run(1), run(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e-2}, r"other settings.*'learning_rate': \(0.005, 0.01\)"),
        ({"epochs": 7}, r"'epochs': \(6, 7\)"),
        ({"update_unsampled": True}, "update_unsampled"),
        ({"seed": 1}, r"'seed': \(0, 1\)"),
        ({"images": 71}, r"'images': \(70, 71\)"),
    ],
    ids=str,
)
def test_a_checkpoint_of_other_settings_is_refused_and_kept(tmp_path, changes, message):
    checkpoint = tmp_path / "train.pt"
    train(supernet(), toy_data(), RECIPE, checkpoint=checkpoint)
    data, net = checkpoint.read_bytes(), supernet()
    before = parameters(net)
    arguments = {"seed": changes.pop("seed", 0), "data": toy_data(changes.pop("images", 70))}
    with pytest.raises(TrainingError, match=message):
        train(net, recipe=replace(RECIPE, **changes), checkpoint=checkpoint, **arguments)
    assert checkpoint.read_bytes() == data
    assert same(parameters(net), before)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoint = tmp_path / "train.pt"
    train(supernet(), toy_data(), RECIPE, checkpoint=checkpoint)
    with pytest.raises(TrainingError, match="was made for other frozen weights"):
        train(Toy(), toy_data(), RECIPE, checkpoint=checkpoint)
    with pytest.raises(TrainingError, match="holds other parameters than this model trains"):
        train(supernet(rank=3), toy_data(), RECIPE, checkpoint=checkpoint)


def test_a_checkpoint_of_another_rank_is_refused_and_changes_nothing(tmp_path):
    checkpoint = tmp_path / "train.pt"
    train(supernet(rank=4), toy_data(), RECIPE, checkpoint=checkpoint)
    net = supernet(rank=1)
    before = parameters(net)
    with pytest.raises(TrainingError, match=r"train.pt.*delete it"):
        train(net, toy_data(), RECIPE, checkpoint=checkpoint)
    assert same(parameters(net), before)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "garbage", "truncated"])
def test_a_checkpoint_that_cannot_be_read_says_how_to_go_on(tmp_path, content):
    checkpoint = tmp_path / "train.pt"
    train(supernet(), toy_data(), RECIPE, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(TrainingError, match="(?s)cannot be read .*delete it to start again"):
        train(supernet(), toy_data(), RECIPE, checkpoint=checkpoint)


def test_a_model_with_nothing_to_train_is_an_error():
    with pytest.raises(TrainingError, match="no parameter of this model requires a gradient"):
        train(Toy().requires_grad_(False), toy_data(), RECIPE)


@pytest.mark.parametrize("dtype", ["float16", "double", ""])
def test_an_unknown_dtype_names_the_known(dtype):
    with pytest.raises(ValueError, match="valid: float32, tf32, bfloat16"):
        accuracy(Toy(), toy_data(), dtype=dtype)
    with pytest.raises(ValueError, match="valid: float32, tf32, bfloat16"):
        train(supernet(), toy_data(), replace(RECIPE, dtype=dtype))


@pytest.mark.parametrize(("dtype", "fused"), [("float32", True), ("bfloat16", False)])
def test_attention_is_fused_where_its_backward_pass_is_fast(dtype, fused):
    q = torch.randn(1, 2, 5, 8, dtype=getattr(torch, dtype), requires_grad=True)
    with profiler.profile() as seen, autocast(dtype, q.device):
        F.scaled_dot_product_attention(q, q, q)
    assert any("flash" in event.key for event in seen.key_averages()) is fused


class Fixed(nn.Module):
    """Says the class that stands in the first pixel; in training mode it says 0."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return F.one_hot(x[:, 0].long(), 4).float() * (not self.training)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@pytest.mark.parametrize("training", [True, False])
def test_predictions_and_accuracy_are_those_of_all_examples_in_evaluation_mode(batch_size, training):
    said, labels = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0]), torch.tensor([0, 1, 2, 3, 0, 0, 1, 3])
    model, data = Fixed().train(training), TensorDataset(said[:, None].float(), labels)
    assert torch.equal(predict(model, data, batch_size=batch_size), said)
    assert accuracy(model, data, batch_size=batch_size) == 5 / 8
    assert model.training == training


def test_the_head_trained_alone_is_cross_entropy_with_adamw():
    """Against five lines of plain torch: whole batches, no warm-up, constant rate."""
    recipe = replace(
        RECIPE, epochs=3, batch_size=100, warmup_epochs=0, learning_rate=1e-2, head_learning_rate=1e-2, final_learning_rate=1e-2
    )
    torch.manual_seed(0)
    ours, plain, data = nn.Linear(6, 3), nn.Linear(6, 3), toy_data(100)
    plain.load_state_dict(ours.state_dict())
    history = train(ours, data, recipe)
    optimizer, losses = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=recipe.weight_decay), []
    for _ in range(3):
        loss = F.cross_entropy(plain(data.tensors[0]), data.tensors[1])
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert [epoch["loss"] for epoch in history] == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(ours.weight, plain.weight, rtol=1e-5, atol=1e-6)


def test_a_deadline_ends_an_epoch_that_was_kept_and_the_rest_goes_on_from_there(tmp_path):
    expected, net = supernet(0.1), supernet(0.1)
    sample = Space(net.layer_names, (4,)).sample
    history = train(expected, toy_data(), RECIPE, sample=sample)
    for epoch in range(1, RECIPE.epochs):
        with deadline.until(0.0), pytest.raises(deadline.OutOfTime, match=f"{epoch} of 6 epochs are kept"):
            train(supernet(0.1), toy_data(), RECIPE, sample=sample, checkpoint=tmp_path / "train.pt")
    with deadline.until(0.0):
        found = train(net, toy_data(), RECIPE, sample=sample, checkpoint=tmp_path / "train.pt")
    assert without_seconds(found) == without_seconds(history)
    assert same(parameters(net), parameters(expected))


def test_a_recipe_is_any_object_with_the_fields():
    recipe = SimpleNamespace(**{name: getattr(RECIPE, name) for name in RECIPE.settings()})
    first, second = supernet(), supernet()
    assert without_seconds(train(first, toy_data(), recipe)) == without_seconds(train(second, toy_data(), RECIPE))
    assert math.isfinite(accuracy(first, toy_data()))


@pytest.mark.parametrize("part_size", [1, 30, 100, 10**6])
def test_a_batch_in_parts_has_the_whole_batch_s_loss_and_gradients(part_size):
    net = supernet().use(Space(["body.0", "body.3"], (4,)).uniform(Choice("lora4", "lora4", "vector", "vector", "vector")))
    net.double()
    x, labels = toy_data(17)[:]
    x = x.double()
    expected = F.cross_entropy(net(x), labels)
    expected.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    assert Gradients(net, part_size=part_size)(x, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert {name for name, p in net.named_parameters() if p.grad is not None} == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(net.get_parameter(name).grad, gradient, rtol=1e-5, atol=1e-7)


def test_a_model_that_normalises_over_batches_gets_them_whole():
    seen = []
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    for model.training in (True, False):
        model.train(model.training)
        Gradients(model, part_size=24)(*toy_data(8)[:])
    assert seen == [8, 4, 4]


def test_a_supernet_without_a_configuration_trains_its_head_alone_and_says_so():
    net = supernet()
    with pytest.warns(UserWarning, match="the head alone is trained"):
        train(net, toy_data(), RECIPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(net, toy_data(), RECIPE, sample=Space(net.layer_names, (4,)).sample)


def test_a_recipe_s_name_is_no_recipe():
    with pytest.raises(TrainingError, match="the recipe is the name 'smoke'"):
        train(Toy(), toy_data(), "smoke")
