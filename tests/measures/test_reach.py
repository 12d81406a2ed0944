"""What units reach: known ranks, and every row of Table 1 against its formula."""

import pytest
import torch

from glora_lib.measures.reach import TABLE, example, norms, projection_matrix, reach, taxonomy
from glora_lib.superlora import PRESETS, SuperLoRA

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = {f"w{i}": (36, 36) for i in range(4)}


def test_every_row_of_table_1_is_its_formula():
    table = taxonomy(SHAPES, lonkr={"side": 3, "r": 2}, lokr={"r": 2})
    assert table["preset"].tolist() == list(PRESETS) == list(TABLE)
    assert (table["largest error"] < 1e-12).all()
    assert (table["parameters"] > 0).all()


def test_a_formula_that_is_wrong_shows(monkeypatch):
    monkeypatch.setattr(
        "glora_lib.measures.reach.written_out", lambda name, unit: 2 * sum(p.sum() for p in unit.parameters()).repeat(36 * 36)
    )
    assert (taxonomy({"w": (36, 36)}, lonkr={"side": 3, "r": 2}, lokr={"r": 2})["largest error"] > 1e-3).all()


def test_ranks_are_the_known_ones():
    table, spectra = reach({"lora": SuperLoRA.lora(r=3), "loha": SuperLoRA.loha(r=3), "dense": SuperLoRA.dense(),
                            "lokr": SuperLoRA.lokr(r=2)}, SHAPES)  # fmt: skip
    assert table["rank of dW"].tolist() == [3, 9, 36, 12]
    assert table["parameters"].tolist() == [4 * 3 * 72, 2 * 4 * 3 * 72, 4 * 36 * 36, 4 * (36 + 2 * 12)]
    assert (table["half its norm in"] <= table["rank of dW"]).all()
    assert all(len(values) == 36 for values in spectra.values())


def test_an_example_is_the_same_for_the_same_seed():
    one, two, other = (torch.stack(example(SuperLoRA.lora(r=2), SHAPES, seed).changes()) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_the_projection_as_a_matrix_and_its_norms():
    F = projection_matrix(8, 64)
    assert F.shape == (8, 64)
    assert F.square().sum(1).mean() == pytest.approx(1, rel=0.5)
    table = norms((1.0, 0.1), draws=50)
    assert ((table["squared norm out / in"] - 1).abs() < 4 * table["sd"] / 50**0.5).all()
