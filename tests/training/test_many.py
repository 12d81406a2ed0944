"""Runs trained as one program end as they do one by one: losses, weights, choices; different classes, seeds, rates and data."""

import copy
import random
from dataclasses import replace

import pytest
import timm
import torch
from torch.utils.data import TensorDataset

from glora_lib.glora import masked
from glora_lib.glora.adapt import adapt
from glora_lib.glora.masked import Masks
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import Space
from glora_lib.methods import METHODS
from glora_lib.runs.profiles import SMOKE
from glora_lib.training import batch, deadline, flat_adamw, joined
from glora_lib.training.batch import autocast
from glora_lib.training.deadline import OutOfTime
from glora_lib.training.graph import WARM_UP
from glora_lib.training.loop import train
from glora_lib.training.many import train_many
from glora_lib.training.stacked import Stack, Unsuited

CLASSES, SEEDS, RATES = (3, 5, 4), (0, 1, 2), (1e-3, 3e-3, 2e-3)
RECIPE = replace(SMOKE.for_method("glora"), epochs=3, batch_size=8, warmup_epochs=1)
OPTIONS = {"lora": {"rank": 3}, "repadapter": {"width": 4}, "fact_tk": {"rank": 4}, "fact_tt": {"rank": 4}}
METHOD_NAMES = ("glora", "lora", "repadapter", "bitfit", "ssf", "fact_tk", "fact_tt", "adapter", "adaptformer", "linear")


def backbone(classes: int, seed: int, dtype: torch.dtype, drop_path: float = 0.2) -> torch.nn.Module:
    """A tiny ViT: the same frozen weights every time, a head of its own."""
    torch.manual_seed(7)
    model = timm.create_model("test_vit", num_classes=0, img_size=16, depth=2, drop_path_rate=drop_path)
    torch.manual_seed(seed)
    model.reset_classifier(classes)
    return model.to(dtype)


def models(method: str, dtype: torch.dtype = torch.float64, runs: int = 3, **backbone_options) -> list[torch.nn.Module]:
    made = []
    for classes, seed in list(zip(CLASSES, SEEDS, strict=True))[:runs]:
        plain = backbone(classes, seed, dtype, **backbone_options)
        options = OPTIONS.get(method, {})
        made.append(adapt(plain, rank=4, scale_broadcast=True) if method == "glora" else METHODS[method](plain, **options))
    return made


def data(dtype: torch.dtype = torch.float64, images: int = 20, runs: int = 3) -> list[TensorDataset]:
    generator = torch.Generator().manual_seed(0)
    sets = []
    for classes in CLASSES[:runs]:
        x = torch.randn(images, 3, 16, 16, generator=generator, dtype=dtype)
        sets.append(TensorDataset(x, torch.randint(classes, (images,), generator=generator)))
    return sets


def recipes(runs: int = 3, **changes) -> list:
    return [replace(RECIPE, learning_rate=rate, **changes) for rate in RATES[:runs]]


def masks(net: AdaptedModel) -> Masks:
    return Masks(Space(net.layer_names, (4, 2)), 4, next(net.parameters()).device)


def one_by_one(nets, sets, rules) -> list[list[dict]]:
    sample = Space(nets[0].layer_names, (4, 2)).sample if isinstance(nets[0], AdaptedModel) else None
    return [
        train(net, split, rule, sample=sample, seed=s) for net, split, rule, s in zip(nets, sets, rules, SEEDS, strict=False)
    ]


def together(nets, sets, rules, **options) -> list[list[dict]]:
    choices = masks(nets[0]) if isinstance(nets[0], AdaptedModel) else None
    return train_many(nets, sets, rules, seeds=SEEDS[: len(nets)], choices=choices, **options)


def trained(net) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}


@torch.no_grad()
def outputs(net, split: TensorDataset) -> torch.Tensor:
    """The logits, of a supernet in a configuration with every form."""
    if isinstance(net, AdaptedModel):
        net.use(Space(net.layer_names, (4, 2)).sample(random.Random(0)))
    return net(split[:][0])


def assert_same(first, second, histories, others, tolerance: float) -> None:
    for net, other in zip(first, second, strict=True):
        for name, tensor in trained(net).items():
            torch.testing.assert_close(tensor, other.get_parameter(name).detach(), rtol=tolerance, atol=tolerance)
    for history, other in zip(histories, others, strict=True):
        for name in ("epoch", "loss", "learning_rate"):
            assert [epoch[name] for epoch in history] == pytest.approx(
                [epoch[name] for epoch in other], rel=max(tolerance, 1e-12)
            )


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_program_ends_as_the_runs_do_one_by_one(method):
    """With dropout and drop path, in float64: to rounding.

    A constant that is added to all features goes lost in the next norm: its gradient is rounding alone, which Adam divides by
    its own size. GLoRA has such tensors, so that its weights agree less closely than what they compute.
    """
    alone, joint = models(method), models(method)
    before = [{name: p.detach().clone() for name, p in net.named_parameters() if not p.requires_grad} for net in joint]
    expected, histories = one_by_one(alone, data(), recipes()), together(joint, data(), recipes())
    assert_same(joint, alone, histories, expected, 1e-5 if method == "glora" else 1e-10)
    for net, other, split in zip(joint, alone, data(), strict=True):
        torch.testing.assert_close(outputs(net, split), outputs(other, split), rtol=1e-8, atol=1e-8)
    start = trained(models(method)[1])
    assert not any(torch.equal(tensor, start[name]) for name, tensor in trained(joint[1]).items() if "head" in name)
    for net, frozen in zip(joint, before, strict=True):
        assert all(torch.equal(net.get_parameter(name), tensor) for name, tensor in frozen.items())
        assert not net.training


@pytest.mark.parametrize("method", ["glora", "lora"])
def test_noise_is_that_of_the_runs_alone_also_where_a_processor_takes_a_batch_in_parts(method, monkeypatch):
    monkeypatch.setattr(batch, "PART", 3 * 16 * 16 * 3)  # three images at once, of a batch of eight
    alone, joint = models(method), models(method)
    expected, histories = one_by_one(alone, data(), recipes()), together(joint, data(), recipes())
    assert_same(joint, alone, histories, expected, 1e-5 if method == "glora" else 1e-10)


def convolutional(method: str, **options) -> list[torch.nn.Module]:
    """Two networks with batch normalisation, whose statistics are not those of a fresh one."""
    nets = []
    for seed in SEEDS[:2]:
        torch.manual_seed(7)
        model = timm.create_model("test_efficientnet", num_classes=0, drop_rate=0.0)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)
        torch.manual_seed(seed)
        model.reset_classifier(CLASSES[seed])
        nets.append(METHODS[method](model.double(), **options))
    return nets


def test_frozen_normalisation_keeps_its_statistics():
    alone, joint = (convolutional("lora", rank=2, placement="conv") for _ in range(2))
    expected, histories = one_by_one(alone, data(runs=2), recipes(2)), together(joint, data(runs=2), recipes(2))
    assert_same(joint, alone, histories, expected, 1e-9)


def test_normalisation_over_a_batch_cannot_be_shared():
    with pytest.raises(Unsuited, match="normalise over their batches"):
        together(convolutional("full"), data(runs=2), recipes(2))


def without_dropout(net) -> None:
    for part in net.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0


@pytest.mark.parametrize("method", ["glora", "bitfit", "fact_tk", "lora"])
def test_on_every_device_it_ends_as_the_runs_do_one_by_one_on_a_processor(method, place):
    """Without dropout, whose noise differs. More epochs than warm-ups, so that on a GPU both sizes of batches become graphs."""
    alone, joint = models(method, drop_path=0.0), models(method, drop_path=0.0)
    for net in (*alone, *joint):
        without_dropout(net)
    joint, rules = [net.to(place) for net in joint], recipes(epochs=WARM_UP + 3)
    expected, histories = one_by_one(alone, data(), rules), together(joint, data(), rules)
    for history, other in zip(histories, expected, strict=True):
        assert [epoch["loss"] for epoch in history] == pytest.approx([epoch["loss"] for epoch in other], rel=1e-6)
    for net, other, split in zip(joint, alone, data(), strict=True):
        torch.testing.assert_close(outputs(net.cpu(), split), outputs(other, split), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: elsewhere nothing is compiled")
@pytest.mark.parametrize("method", ["glora", "lora"])
def test_with_its_parts_compiled_it_trains_as_with_these_parts_as_they_stand(method, monkeypatch):
    losses = []
    for compiled in (True, False):
        if not compiled:
            for module, name in ((joined, "_fused"), (masked, "_combined"), (flat_adamw, "_move")):
                monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)
        nets = [net.to("cuda") for net in models(method, torch.float32, drop_path=0.0)]
        for net in nets:
            without_dropout(net)
        losses.append([[epoch["loss"] for epoch in run] for run in together(nets, data(torch.float32), recipes())])
    for one, other in zip(*losses, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("method", ["glora", "lora"])
def test_in_float32_within_its_rounding(method):
    """Adam turns the rounding of a gradient near zero into a whole step, so that single numbers say little: norms do."""
    alone, joint = models(method, torch.float32), models(method, torch.float32)
    sets, start = data(torch.float32), trained(models(method, torch.float32)[0])
    histories, expected = together(joint, sets, recipes()), one_by_one(alone, sets, recipes())
    for history, other in zip(histories, expected, strict=True):
        assert [epoch["loss"] for epoch in history] == pytest.approx([epoch["loss"] for epoch in other], rel=1e-3)
    apart = sum((tensor - alone[0].get_parameter(name)).square().sum() for name, tensor in trained(joint[0]).items())
    moved = sum((tensor - start[name]).square().sum() for name, tensor in trained(joint[0]).items())
    assert apart < 0.1 * moved


def test_tensors_that_a_step_did_not_sample_move_by_momentum_where_the_recipe_says_so():
    alone, joint = models("glora"), models("glora")
    rules = recipes(update_unsampled=True)
    assert_same(joint, alone, together(joint, data(), rules), one_by_one(alone, data(), rules), 1e-5)
    torch.testing.assert_close(outputs(joint[2], data()[2]), outputs(alone[2], data()[2]), rtol=1e-8, atol=1e-8)
    other = models("glora")
    together(other, data(), recipes())
    assert not torch.allclose(other[0].model.blocks[0].attn.qkv.Ad, joint[0].model.blocks[0].attn.qkv.Ad)


def test_a_run_is_the_same_in_any_company():
    alone, joint = models("lora", runs=1), models("lora")
    assert_same(joint[:1], alone, together(joint, data(), recipes())[:1], together(alone, data(runs=1), recipes(1)), 1e-9)


@pytest.mark.parametrize("method", ["glora", "lora"])
def test_out_of_time_keeps_everything_and_goes_on_to_the_same_end(method, tmp_path):
    whole, halves, again = models(method), models(method), models(method)
    expected = together(whole, data(), recipes())
    path = tmp_path / "many.pt"
    with deadline.until(0.0), pytest.raises(OutOfTime, match="time is up: 1 of 3 epochs of 3 runs are kept in .*many.pt"):
        together(halves, data(), recipes(), checkpoint=path)
    histories = together(again, data(), recipes(), checkpoint=path)
    assert_same(again, whole, histories, expected, 1e-12)
    assert [file.name for file in tmp_path.iterdir()] == ["many.pt"]
    with deadline.until(0.0):  # what is finished is no longer held up
        assert together(models(method), data(), recipes(), checkpoint=path) == histories


def test_what_cannot_be_one_program_says_why():
    nets = models("lora")
    with pytest.raises(Unsuited, match="the recipes differ in epochs"):
        train_many(nets, data(), [*recipes(2), replace(RECIPE, epochs=9)], seeds=SEEDS)
    with pytest.raises(Unsuited, match=r"the data have \[20, 20, 12\] images"):
        train_many(nets, [*data(runs=2), data(images=12)[2]], recipes(), seeds=SEEDS)
    with pytest.raises(Unsuited, match="parameters of the same names"):
        train_many([nets[0], *models("ssf")[1:]], data(), recipes(), seeds=SEEDS)
    other = copy.deepcopy(nets[2])
    other.blocks[0].attn.qkv.linear.weight.data[0, 0] += 1
    with pytest.raises(Unsuited, match="do not share their frozen weights"):
        train_many([*nets[:2], other], data(), recipes(), seeds=SEEDS)
    with pytest.raises(Unsuited, match="train the models one by one"):
        train_many(models("full"), data(), recipes(), seeds=SEEDS)
    prompted = METHODS["vpt_deep"](backbone(3, 0, torch.float64), tokens=2)
    with pytest.raises(Unsuited, match="attention"):
        train_many([prompted], data(runs=1), recipes(1), seeds=[0])
    scaled = [METHODS["lora"](backbone(3, 0, torch.float64), rank=2, scale=scale) for scale in (1.0, 2.0)]
    with pytest.raises(Unsuited, match="the models differ in a scale, a rate of dropout or the like"):
        train_many(scaled, data(runs=2), recipes(2), seeds=SEEDS[:2])
    formed = METHODS["superlora_lora"](backbone(3, 0, torch.float64), r=2)
    with pytest.raises(Unsuited, match="groups.0.* is called without an input"):
        train_many([formed], data(runs=1), recipes(1), seeds=[0])


@pytest.mark.parametrize("method", ["lora", "fact_tk", "repadapter", "adapter"])
def test_noise_of_the_device_is_another_one_for_every_run_and_batch(method):
    """As on a GPU, where no run has a generator of its own."""
    nets = [models(method)[0] for _ in range(2)]
    for net in nets:
        torch.manual_seed(0)
        for tensor in (p for p in net.parameters() if p.requires_grad):
            torch.nn.init.normal_(tensor, std=0.5)
        net.train()
    images = data()[0][:4][0]
    both = images.expand(2, *images.shape)
    stack = Stack(nets, images[:2], own_noise=False)
    assert not stack.noise
    first, second = stack(both), stack(both)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    torch.testing.assert_close(*Stack(nets, images[:2], own_noise=False).eval()(both), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["lora", "fact_tk", "repadapter", "adapter", "bitfit"])
def test_modules_answer_in_the_number_format_that_they_have_alone(method):
    """A wider one is the same network, but passes twice as many bytes from module to module."""

    def formats(run, model) -> dict[str, torch.dtype]:
        found, hooks = {}, []
        for name, module in model.named_modules():
            hooks.append(module.register_forward_hook(lambda _, __, out, name=name: found.update({name: out.dtype})))
        with torch.no_grad(), autocast("bfloat16", torch.device("cpu")):
            run()
        for hook in hooks:
            hook.remove()
        return found

    net = models(method, torch.float32, runs=1)[0].eval()
    images = data(torch.float32)[0][:4][0]
    alone = formats(lambda: net(images), net)
    stack = Stack([net], images[:2]).eval()
    joint = formats(lambda: stack(images[None]), stack.template)
    both = [name for name in alone if name in joint]
    assert [joint[name] for name in both] == [alone[name] for name in both]
    assert joint["blocks.0.mlp.fc1"] == torch.bfloat16


def test_dropout_inside_attention_cannot_be_shared():
    nets = models("bitfit", runs=2)
    for net in nets:
        net.blocks[0].attn.attn_drop.p = 0.1
    with pytest.raises(Unsuited, match="dropout inside attention"):
        together(nets, data(runs=2), recipes(2))
