"""Units: Eq. 2 written out, the libraries of the methods' authors, and where each starts."""

import math

import peft
import pytest
import torch
from fixtures.vits import move
from lycoris.functional import loha as lycoris_loha
from lycoris.functional import lokr as lycoris_lokr
from lycoris.functional.general import factorization
from torch import Tensor, nn

from glora_lib.superlora import SuperLoRA, units
from glora_lib.superlora.fold import exact
from glora_lib.superlora.grouping import Grouping, Part

LIKE = torch.zeros(1, dtype=torch.float64)
pytestmark = pytest.mark.usefixtures("one_thread")


def same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def peft_layer(config: peft.PeftConfig, rows: int, columns: int) -> nn.Module:
    """Return peft's layer on a linear one of this shape."""
    model = nn.Sequential(nn.Linear(columns, rows)).double()
    config.target_modules = ["0"]
    return peft.get_peft_model(model, config).base_model.model[0]


def unit_of(setting: SuperLoRA, rows: int, columns: int) -> nn.Module:
    """Return the unit of a setting on one weight, with values as after training."""
    (group,) = Grouping([Part("w")], {"w": (rows, columns)}).stretches
    return move(setting.unit(group, LIKE), by=0.5)


# Eq. 2, written out


@pytest.mark.parametrize(("shape", "ranks"), [((4, 5), (2, 3)), ((4, 5, 6), (2, 3, 1)), ((2, 3, 4, 5), (2, 2, 3, 2)),
                                              ((2, 3, 2, 3, 2), (1, 2, 2, 2, 2))])  # fmt: skip
@torch.no_grad()
def test_tucker_is_the_sum_over_its_core(shape, ranks):
    unit = move(units.Tucker(shape, ranks, LIKE, free=True), by=0.5)
    places, inner = "abcde"[: len(shape)], "vwxyz"[: len(shape)]
    terms = ",".join([inner, *(p + i for p, i in zip(places, inner, strict=True))])
    same(unit(), torch.einsum(f"{terms}->{places}", unit.core, *unit.factors))


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6), (2, 3, 4, 5), (3, 3, 4, 4, 5)])
@torch.no_grad()
def test_an_identity_core_is_cp_and_for_two_modes_lora(shape):
    cp, tucker = (move(make(shape, 2, LIKE), by=0.5) for make in (units.lora, units.lorta))
    for ours, theirs in zip(tucker.factors, cp.factors, strict=True):
        ours.copy_(theirs)
    tucker.core.copy_(units.identity((2,) * len(shape), LIKE))
    same(cp(), tucker())
    if len(shape) == 2:
        A, B = cp.factors
        same(cp(), A @ B.T)


@torch.no_grad()
def test_one_mode_of_rank_one_with_an_identity_core_is_dense():
    """ "M = r = 1 identity core tensor corresponds to the dense FT": A is a column, C is 1."""
    wanted = torch.randn(12, dtype=torch.float64)
    dense = units.Dense((12,), LIKE)
    dense.values.copy_(wanted)
    same(dense(), torch.einsum("x,ax->a", torch.ones(1, dtype=torch.float64), wanted[:, None]))


@torch.no_grad()
def test_lotr_is_a_product_of_three_factors_and_a_tensor_train():
    unit = move(units.lotr((4, 6, 5), 3, LIKE), by=0.5)
    (U, V), C = unit.factors, unit.core
    same(unit(), torch.stack([U @ C[i] @ V.T for i in range(4)]))
    same(unit(), torch.einsum("ax,nxy,by->nab", U, C, V))
    same(unit(), torch.einsum("nm,mxy,ax,by->nab", torch.eye(4, dtype=torch.float64), C, U, V))  # Eq. 2 with A_1 = I


@torch.no_grad()
def test_a_kronecker_product_of_three_is_made_entry_by_entry():
    unit = move(units.kronecker([(2, 2), (2, 2), (3, 4)], 2, None, LIKE), by=0.5)
    w1, w2, w3 = (split() for split in unit.splits)
    assert unit().shape == (12, 16)
    whole = unit()
    for row in range(12):
        for column in range(16):
            i, j, k = row // 6, row // 3 % 2, row % 3
            a, b, c = column // 8, column // 4 % 2, column % 4
            assert whole[row, column] == pytest.approx(float(w1[i, a] * w2[j, b] * w3[k, c]), abs=1e-12)


# the libraries of the methods' authors: what they divide by r is our `scale`


@torch.no_grad()
def test_lora_is_peft_s_delta():
    theirs = peft_layer(peft.LoraConfig(r=3, lora_alpha=6), 8, 12)
    unit = unit_of(SuperLoRA.lora(r=3), 8, 12)
    theirs.lora_B["default"].weight.copy_(unit.factors[0])
    theirs.lora_A["default"].weight.copy_(unit.factors[1].T)
    same(2 * unit(), theirs.get_delta_weight("default"))


@torch.no_grad()
def test_loha_is_peft_s_and_lycoris_delta():
    theirs = peft_layer(peft.LoHaConfig(r=3, alpha=6), 8, 12)
    unit = unit_of(SuperLoRA.loha(r=3), 8, 12)
    (w1a, w1b), (w2a, w2b) = unit.left.factors, unit.right.factors
    theirs.hada_w1_a["default"].copy_(w1a)
    theirs.hada_w1_b["default"].copy_(w1b.T)
    theirs.hada_w2_a["default"].copy_(w2a)
    theirs.hada_w2_b["default"].copy_(w2b.T)
    same(2 * unit(), theirs.get_delta_weight("default"))
    half = torch.tensor(0.5, dtype=torch.float64)
    same(0.5 * unit(), lycoris_loha.diff_weight(w1b.T, w1a, w2b.T, w2a, None, None, gamma=half))
    assert torch.linalg.matrix_rank(unit()) == 8  # up to r^2 = 9, where LoRA with as many numbers has 2 r = 6


@pytest.mark.parametrize(("rows", "columns"), [(24, 36), (16, 16), (48, 144)])
@pytest.mark.parametrize(("r", "left_r"), [(2, None), (2, 2), (None, None), (99, None)])
@torch.no_grad()
def test_lokr_is_peft_s_and_lycoris_delta(rows, columns, r, left_r):
    """The left factor is the outer one: entry (i p + k, j q + l) is w1[i, j] w2[k, l], w2 of p rows and q columns.

    peft multiplies with alpha / r always; LyCORIS with gamma / r where a factor is low rank, and with 1 where both are dense.
    """
    unit = unit_of(SuperLoRA.lokr(r=r, left_r=left_r), rows, columns)
    w1, w2 = (split() for split in unit.splits)
    assert [w.shape for w in (w1, w2)] == [torch.Size(side) for side in zip(exact(rows, 2), exact(columns, 2), strict=True)]
    config = peft.LoKrConfig(r=r or 99, alpha=2 * (r or 99), decompose_both=left_r is not None)
    theirs = peft_layer(config, rows, columns)
    halves = []
    for name, split, whole in zip(("w1", "w2"), unit.splits, (w1, w2), strict=True):
        low = isinstance(split, units.Tucker)
        if name == "w2" or left_r is None:  # both libraries give the left factor the rank r as well, where that is low
            assert low == ("default" in getattr(theirs, f"lokr_{name}_a"))
        if "default" in getattr(theirs, f"lokr_{name}_a"):
            getattr(theirs, f"lokr_{name}_a")["default"].copy_(split.factors[0])
            getattr(theirs, f"lokr_{name}_b")["default"].copy_(split.factors[1].T)
        else:
            getattr(theirs, f"lokr_{name}")["default"].copy_(whole)
        halves.append((None, split.factors[0], split.factors[1].T) if low else (whole, None, None))
    same(2 * unit(), theirs.get_delta_weight("default"))
    if left_r in (None, r):
        rank = r if any(half[1] is not None for half in halves) else 1
        same(unit(), lycoris_lokr.diff_weight(*halves[0], *halves[1], None, gamma=float(rank)))


@pytest.mark.parametrize("side", [384, 768, 2304, 3072, 127, 250, 360, 1024])
def test_lokr_s_factors_have_the_sides_of_both_libraries(side):
    assert exact(side, 2) == factorization(side, -1) == peft.tuners.lokr.layer.factorization(side, -1)


def test_the_table_of_factorisations():
    assert [exact(side, 2) for side in (768, 2304, 3072)] == [(24, 32), (48, 48), (48, 64)]


# starts


@pytest.mark.parametrize("setting", [SuperLoRA.dense(), SuperLoRA.lora(r=4), SuperLoRA.loha(r=4), SuperLoRA.lokr(r=2),
                                     SuperLoRA.lokr(r=None), SuperLoRA.lokr(r=2, left_r=2), SuperLoRA.lonkr(r=2, side=4),
                                     SuperLoRA.lotr(r=4), *(SuperLoRA.lorta(r=2, order=M) for M in (3, 4, 5)),
                                     SuperLoRA.lorta(r=2, core="identity")], ids=str)  # fmt: skip
def test_every_unit_starts_at_zero_and_its_first_step_moves_it(setting):
    (group,) = Grouping([Part("w")], {"w": (48, 96)}).stretches
    unit = setting.unit(group, LIKE)
    assert not unit().any()
    (unit() * torch.randn_like(unit())).sum().backward()
    assert any(p.grad.abs().max() > 0 for p in unit.parameters())
    with torch.no_grad():
        for p in unit.parameters():
            p.sub_(0.1 * p.grad)
    assert unit().abs().max() > 0


def test_starts_are_those_of_the_methods_authors():
    def bound(p: Tensor) -> float:
        return float(p.detach().abs().max())

    torch.manual_seed(0)
    lora = units.lora((400, 100), 8, LIKE)
    assert not lora.factors[0].any()
    assert 0.09 < bound(lora.factors[1]) <= 0.1  # Kaiming's, of 100 inputs
    loha = units.loha((400, 100), 8, LIKE)
    deviations = [float(p.detach().std()) for p in (*loha.left.factors, *loha.right.factors)]
    assert deviations == pytest.approx([0, 1, 0.1, 1], rel=0.1)
    theirs = lycoris_lokr.weight_gen(torch.zeros(400, 100), 2, tucker=False)
    ours = units.kronecker([(20, 10), (20, 10)], 2, None, LIKE)
    assert bound(ours.splits[0].values) == pytest.approx(bound(theirs[0]), rel=0.1)
    assert bound(ours.splits[1].factors[0]) == pytest.approx(bound(theirs[4]), rel=0.2)
    assert not ours.splits[1].factors[1].any()
    assert not theirs[5].any()
    ours = units.kronecker([(200, 100), (20, 10)], 2, 5, LIKE)
    assert bound(ours.splits[0].factors[0]) == pytest.approx(5**-0.5, rel=0.02)
    assert bound(ours.splits[0].factors[1]) == pytest.approx(100**-0.5, rel=0.02)
    lotr = units.lotr((4, 100, 100), 8, LIKE)
    assert [float(p.detach().std()) for p in (*lotr.factors, lotr.core)] == pytest.approx([1, 1, 0], rel=0.1)
    lorta = units.lorta((20, 30, 40), 5, LIKE)
    assert float(lorta.core.detach().sum()) == 5
    assert math.isclose(bound(lorta.factors[2]), 40**-0.5, rel_tol=0.05)


@pytest.mark.parametrize(("shape", "ranks"), [((4, 5), (5, 2)), ((4, 5, 6), (2, 2, 0)), ((3, 3), (-1, 2))])
def test_a_rank_above_its_mode_s_length_is_an_error(shape, ranks):
    with pytest.raises(ValueError, match=r"rank -?\d does not suit mode \d of the shape .*, of length \d; valid: 1 to \d"):
        units.Tucker(shape, ranks, LIKE)


def test_a_rank_for_every_mode():
    with pytest.raises(ValueError, match="2 ranks for a tensor of 3 modes"):
        units.Tucker((2, 3, 4), (1, 1), LIKE)
