"""One rule for the head, on every kind of model that the project meets."""

import warnings

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from glora_lib.glora.adapt import adapt
from glora_lib.methods import METHODS, trainable_parameters
from glora_lib.training.head import head_of, head_parameters
from glora_lib.training.loop import adamw
from glora_lib.training.wrappers import plain_name, unwrapped

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 3}


class OwnHead(nn.Module):
    """A user's model: a backbone without head and a head of its own beside it."""

    def __init__(self):
        super().__init__()
        self.model = timm.create_model("test_vit", num_classes=0, img_size=32)
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        return self.head(self.model(x))


def of_timm(name, **options):
    return lambda: timm.create_model(name, num_classes=3, **options)


def of_transformers(kind):
    return lambda: getattr(transformers, f"{kind}")(getattr(transformers, f"{kind.partition('For')[0]}Config")(**SMALL))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (of_timm("test_vit"), ["head"]),
        (of_timm("test_resnet"), ["fc"]),
        (of_timm("mobilenetv3_small_050"), ["classifier"]),
        (of_timm("convnext_atto"), ["head.fc"]),
        (of_timm("deit_tiny_distilled_patch16_224"), ["head", "head_dist"]),
        (of_timm("crossvit_tiny_240"), ["head.0", "head.1"]),
        (of_transformers("ViTForImageClassification"), ["classifier"]),
        (of_transformers("DeiTForImageClassificationWithTeacher"), ["cls_classifier", "distillation_classifier"]),
        (of_transformers("LlamaForSequenceClassification"), ["score"]),
        (of_transformers("XLMForSequenceClassification"), ["sequence_summary"]),
        (of_transformers("ElectraForMultipleChoice"), ["classifier"]),  # beside a `sequence_summary` that pools
        (of_transformers("LlamaForCausalLM"), []),  # its output layer is pretrained
        (lambda: torchvision.models.resnet18(num_classes=3), ["fc"]),
        (lambda: torchvision.models.vit_b_16(num_classes=3), ["heads"]),
        (OwnHead, ["head"]),
        (lambda: nn.Linear(2, 2), []),
        (lambda: timm.create_model("seresnet18", num_classes=0), []),
    ],
)
def test_the_head_of(make, expected):
    with torch.device("meta"):
        model = make()
    assert list(head_of(model)) == expected
    wrapped = nn.DataParallel(nn.Sequential(nn.Identity(), model))
    assert list(head_of(wrapped)) == [f"module.1.{name}" for name in expected]
    names = [name for name, _ in model.named_parameters() if any(name.startswith(f"{head}.") for head in expected)]
    assert list(head_parameters(model)) == names


@pytest.mark.parametrize("make", [of_timm("test_resnet"), of_timm("test_vit", img_size=32), OwnHead])
def test_the_same_head_for_adapt_counts_and_the_optimiser_s_groups(make):
    model = make()
    head = sum(p.numel() for p in head_parameters(model).values())
    net = adapt(model, rank=2, layers=("linear", "conv"))
    assert not set(net.layer_names) & set(head_of(model))
    assert all(p.requires_grad for p in head_parameters(net).values())
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert trainable_parameters(net) == sum(p.numel() for p in trained.values()) - head
    recipe = type("Recipe", (), {"learning_rate": 1e-3, "head_learning_rate": 1e-2, "weight_decay": 0.0})
    groups = adamw(trained, recipe, head_parameters(net)).param_groups
    assert [group["lr"] for group in groups] == [1e-3, 1e-2]
    assert sum(p.numel() for p in groups[1]["params"]) == head


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("full",)])
def test_every_method_trains_both_heads_of_a_distilled_model(method):
    torch.manual_seed(0)
    options = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2}
    net = METHODS[method](timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **options))
    assert all(p.requires_grad for p in head_parameters(net).values())
    assert len(head_of(net)) == 2
    x = torch.randn(2, 3, 32, 32)
    loss = net.train()(x).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in head_parameters(net).values())


def test_a_model_without_a_head_is_said_aloud_or_refused():
    model = timm.create_model("test_vit", num_classes=0, img_size=32)
    with pytest.warns(UserWarning, match="VisionTransformer has no head that would be trained whole"):
        adapt(model)
    with pytest.warns(UserWarning, match="BertModel has no head that would be trained whole"):
        adapt(transformers.BertModel(transformers.BertConfig(**SMALL)), rank=2)
    with warnings.catch_warnings(action="error"):  # a language model has an output layer instead
        adapt(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)), rank=2)
    with pytest.raises(ValueError, match="VisionTransformer has no head"):
        METHODS["lora"](timm.create_model("test_vit", num_classes=0, img_size=32))


@pytest.mark.parametrize("argument", ["train", "skip", "only"])
def test_names_of_modules_are_checked(argument):
    for name in ("classifier", ("heads",), "h", "blocks."):
        with pytest.raises(ValueError, match=r"no module is called '(classifier|heads|h|blocks.)'"):
            adapt(timm.create_model("test_vit", num_classes=3), **{argument: name})


@pytest.mark.parametrize("argument", ["train", "skip"])
def test_a_single_name_will_do(argument):
    for name in ("", ("head", "")):
        with pytest.raises(ValueError, match="no module is called ''"):
            adapt(timm.create_model("test_vit", num_classes=3), **{argument: name})
    net = adapt(timm.create_model("test_vit", num_classes=3), **{argument: "head"})
    assert len(net.layer_names) == 24
    assert net.model.head.weight.requires_grad
    only = adapt(timm.create_model("test_vit", num_classes=3), only="blocks.0.attn.qkv")
    assert only.layer_names == ("blocks.0.attn.qkv",)


def test_names_without_the_wrappers_around_and_inside():
    model = nn.Sequential(nn.DataParallel(nn.Linear(2, 2)), nn.ModuleDict({"module": nn.Linear(2, 2)}))
    model.add_module("compiled", torch.compile(nn.Linear(2, 2)))
    wrapped = nn.DataParallel(torch.compile(model))
    assert unwrapped(wrapped) is model
    names = [plain_name(wrapped, name) for name, _ in wrapped.named_parameters()]
    assert names == [f"{place}.{part}" for place in ("0", "1.module", "compiled") for part in ("weight", "bias")]
