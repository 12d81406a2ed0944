"""Settings: the papers' counts, formulas against live modules, and errors that come before anything is changed."""

import pytest
import timm
import torch

from glora_lib.superlora import PRESETS, SuperLoRA, queries_and_values
from glora_lib.superlora.counts import parameters
from glora_lib.superlora.grouping import Part

pytestmark = pytest.mark.usefixtures("one_thread")
VIT_B = {f"blocks.{i}.attn.qkv": (2304, 768) for i in range(12)}
QV = queries_and_values(VIT_B)
GPT2_M = {f"h.{i}.{name}_proj": (1024, 1024) for i in range(24) for name in "qv"}
SMALL = {
    f"{i}.{name}": shape for i in range(2) for name, shape in {"qkv": (60, 20), "fc": (48, 20), "conv": (6, 4, 3, 3)}.items()
}
SMALL_QV = queries_and_values(SMALL)
SETTINGS = [
    *(SuperLoRA.dense(groups=G, **F) for G in ("weight", 1, 3) for F in ({}, {"projection": "shuffle", "seed": 0})),
    *(SuperLoRA.dense(groups=G, ratio=rho, projection="fastfood", seed=1) for G in ("weight", 1) for rho in (0.5, 0.01)),
    *(SuperLoRA.lora(r=3, groups=G) for G in ("weight", "layer", 1, 2)),
    *(SuperLoRA.lora(r=3, groups=G, shape="fold") for G in ("weight", "layer", 1, 3, 7)),
    SuperLoRA.lora(r=2, groups=1, shape="fold", projection="fastfood", ratio=0.3, seed=0),
    SuperLoRA.lora(r=2, groups=1, shape=(32, 50)),
    SuperLoRA.loha(r=3),
    SuperLoRA.loha(r=3, groups=2, shape="fold"),
    *(SuperLoRA.lokr(r=r) for r in (1, 2, None)),
    SuperLoRA.lokr(r=1, left_r=2),
    *(SuperLoRA.lonkr(r=r, splits=K, side=s) for r in (1, None) for K, s in ((2, 6), (3, 3), (3, 2), (4, 2))),
    *(SuperLoRA.lotr(r=r, groups=G) for r in (1, 5) for G in (1, "layer", "weight")),
    *(SuperLoRA.lorta(r=2, order=M, core=C) for M in (3, 4, 5) for C in ("free", "identity")),
    SuperLoRA.lorta(r=2, order=4, groups=3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        (SuperLoRA.dense(), 14_155_776),
        *((SuperLoRA.dense(groups=1, ratio=rho, projection="fastfood", seed=0), n)
          for rho, n in ((0.5, 7_077_888), (0.25, 3_538_944), (0.1, 1_415_578), (0.01, 141_558))),
        *((SuperLoRA.lora(r=r), 36_864 * r) for r in (1, 8)),
        (SuperLoRA.lora(r=1, groups=1), 19_200),
        (SuperLoRA.lora(r=1, groups=1, shape="fold"), 7_552),
        *((SuperLoRA.lora(r=1, groups=G, shape="fold"), n) for G, n in ((4, 15_104), (8, 21_504), (12, 26_112), (24, 36_864))),
        *((SuperLoRA.lorta(r=r, order=M), a_rank * r + r**M) for M, a_rank in ((3, 728), (4, 246), (5, 136)) for r in (1, 8)),
        (SuperLoRA.lorta(r=8, order=5), 33_856),
        (SuperLoRA.lorta(r=8, order=5, core="identity"), 1_088),
        (SuperLoRA.lotr(r=8), 2 * 768 * 8 + 24 * 64),
        (SuperLoRA.loha(r=4), 2 * 4 * 1536 * 24),
        (SuperLoRA.lokr(r=4), 24 * (24 * 24 + 4 * 64)),
        (SuperLoRA.lokr(r=None), 24 * (24 * 24 + 32 * 32)),
    ],
    ids=str,
)  # fmt: skip
def test_counts_on_the_queries_and_values_of_vit_b(setting, wanted):
    assert parameters(setting, QV, VIT_B) == wanted


def test_counts_of_gpt_2_medium_in_table_3():
    parts = queries_and_values(GPT2_M)
    assert parameters(SuperLoRA.dense(), parts, GPT2_M) == 50_331_648 == 48 * 2**20
    assert parameters(SuperLoRA.lora(r=4), parts, GPT2_M) == 393_216


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_formula_counts_what_the_live_model_trains(setting):
    model = torch.nn.ModuleDict()
    for i in range(2):
        model[str(i)] = torch.nn.ModuleDict({"qkv": torch.nn.Linear(20, 60), "fc": torch.nn.Linear(20, 48)})
    net = setting.adapt(model, SMALL_QV, train=())
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert trained == parameters(setting, SMALL_QV, SMALL) == sum(row["parameters"] for row in net.report())
    assert sum(row["numbers"] for row in net.report()) == 4 * 20 * 20
    assert all(row["padding"] >= 0 for row in net.report())


def test_mixed_weights_count_as_well():
    parts = [Part(name) for name in SMALL]
    model = torch.nn.ModuleDict()
    for i in range(2):
        layers = {"qkv": torch.nn.Linear(20, 60), "fc": torch.nn.Linear(20, 48), "conv": torch.nn.Conv2d(4, 6, 3)}
        model[str(i)] = torch.nn.ModuleDict(layers)
    for setting in (SuperLoRA.lora(r=2), SuperLoRA.lorta(r=2, groups=3), SuperLoRA.lora(r=2, groups=1, shape="fold")):
        net = setting.adapt(model, parts, train=())
        assert sum(p.numel() for p in net.parameters() if p.requires_grad) == parameters(setting, parts, SMALL)


def test_padding_is_reported():
    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(7, 11)})
    (row,) = SuperLoRA.lonkr(r=1, splits=3, side=2).adapt(model, [Part("q_proj")], train=()).report()
    assert row == {"numbers": 77, "unit": 96, "padding": 19, "parameters": 4 + 4 + 2 + 3}  # 7 x 11 as 8 x 12: 2 . 2 . (2, 3)


def test_presets_are_the_rows_of_table_1():
    assert list(PRESETS) == ["dense", "lora", "loha", "lokr", "lonkr", "lotr", "lorta"]
    assert SuperLoRA.lora(r=8) == SuperLoRA()
    table = {name: (s.projection, s.groups, s.splits, s.core, s.order) for name, s in ((n, p()) for n, p in PRESETS.items())}
    assert table == {
        "dense": ("identity", "weight", 1, "identity", 1),
        "lora": ("identity", "weight", 1, "identity", 2),
        "loha": ("identity", "weight", 1, "identity", 2),
        "lokr": ("identity", "weight", 2, "identity", 2),
        "lonkr": ("identity", 1, 3, "identity", 2),
        "lotr": ("identity", 1, 1, "matrices", 3),
        "lorta": ("identity", 1, 1, "free", 3),
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuperLoRA.lora(r=21), r"rank 21 does not suit mode 1 of the shape \(20, 20\), of length 20; valid: 1 to 20"),
        (lambda: SuperLoRA.lora(r=0), "r must be at least 1, not 0"),
        (lambda: SuperLoRA.lorta(r=13, order=3), r"rank 13 does not suit mode 1 of the shape \(10, 10, 16\), of length 10"),
        (lambda: SuperLoRA.lotr(r=30), "rank 30 does not suit mode 2"),
        (lambda: SuperLoRA.lora(groups=1601), "1601 groups of 1,600 numbers leave one empty"),
        (lambda: SuperLoRA.lora(groups=0), "0 groups of 1,600 numbers leave one empty"),
        (lambda: SuperLoRA.lora(r=2, groups=1, shape=(32, 51)), "the shape 32 x 51 has 1,632 places, a group 1,600 numbers"),
        (lambda: SuperLoRA.lora(r=2, shape=(2, 20, 10)), "has 3 modes, the order is 2; set shape='fold' or name 2 sides"),
        (lambda: SuperLoRA.lorta(r=2, shape="stack"), "has 2 modes, the order is 3; set shape='fold' or name 3 sides"),
        (lambda: SuperLoRA.lora(r=2, groups=3), "stacks weights of one width, this one has a border inside a weight"),
        (lambda: SuperLoRA.lotr(r=2, groups=3), "LoTR shares its factors between equal matrices; .* a border inside a weight"),
        (lambda: SuperLoRA.dense(ratio=0.0), r"ratio 0.0 is not in \(0, 1\]"),
        (lambda: SuperLoRA.dense(ratio=1.5), r"ratio 1.5 is not in \(0, 1\]"),
        (lambda: SuperLoRA.dense(ratio=-0.1), r"ratio -0.1 is not in \(0, 1\]"),
        (lambda: SuperLoRA.dense(ratio=0.5), "a ratio of 0.5 needs the projection 'fastfood', not 'identity'"),
        (lambda: SuperLoRA.dense(projection="fastfood"), "the projection 'fastfood' has no seed, without which it is lost"),
        (lambda: SuperLoRA.dense(projection="hash", seed=0), "projection 'hash' is not known; valid: identity, shuffle, fast"),
        (lambda: SuperLoRA.lora(ratio=0.5, projection="fastfood", seed=0), "leaves no weight its own shape; set shape='fold'"),
        (lambda: SuperLoRA.lora(groups="weights"), "groups 'weights' is not known; valid: weight, layer, or how many"),
        (lambda: SuperLoRA.lora(shape="cube"), "shape 'cube' is not known; valid: stack, fold, or the sides of a group"),
        (lambda: SuperLoRA.lorta(core="diagonal"), "core 'diagonal' is not known; valid: identity, free, matrices"),
        (lambda: SuperLoRA(order=0), "order must be at least 1, not 0"),
        (lambda: SuperLoRA.lora(r=True), "r must be an integer, not True"),
        (lambda: SuperLoRA.lora(scale=float("nan")), "scale must be a finite number, not nan"),
        (lambda: SuperLoRA.lokr(splits=3), "3 splits need the side of their left factors, as side=8"),
        (lambda: SuperLoRA.lonkr(splits=3, side=8), r"3 splits of side 8 do not fit the shape \(40, 40\); take fewer or"),
        (lambda: SuperLoRA.lokr(r=0), "r must be at least 1, not 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_error_and_changes_nothing(make, message):
    model = torch.nn.ModuleDict({str(i): torch.nn.ModuleDict({"qkv": torch.nn.Linear(20, 60)}) for i in range(2)})
    with pytest.raises(ValueError, match=message):
        make().adapt(model, SMALL_QV, train=())
    assert all(p.requires_grad for p in model.parameters())


def test_weights_of_two_widths_do_not_stack_and_are_no_lotr():
    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(4, 6), "v_proj": torch.nn.Linear(5, 6)})
    parts = [Part("q_proj"), Part("v_proj")]
    with pytest.raises(ValueError, match="stacks weights of one width, this one has 6 x 4, 6 x 5; set shape='fold'"):
        SuperLoRA.lora(r=2, groups=1).adapt(model, parts, train=())
    with pytest.raises(ValueError, match="LoTR shares its factors between equal matrices; this group has 6 x 4, 6 x 5"):
        SuperLoRA.lotr(r=2).adapt(model, parts, train=())


def test_timm_s_vit_b_has_these_weights():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
    shapes = {name: tuple(m.weight.shape) for name, m in model.named_modules() if name.endswith("qkv")}
    assert shapes == VIT_B
    setting = SuperLoRA.dense(groups=1, ratio=0.01, projection="fastfood", seed=0)
    assert parameters(setting, queries_and_values(shapes), shapes) == 141_558
