"""Grouping: scattering what was gathered changes nothing, whatever the weights and the groups are."""

import pytest
import torch

from glora_lib.superlora.grouping import Grouping, Part, queries_and_values

VIT = {f"blocks.{i}.attn.qkv": (24, 8) for i in range(6)}
MIXED = {"conv": (4, 3, 3, 3), "a.q_proj": (6, 5), "a.v_proj": (2, 5), "b.q_proj": (6, 5), "b.v_proj": (2, 5)}
CASES = [(queries_and_values(VIT), VIT), ([Part(name) for name in MIXED], MIXED)]


@pytest.mark.parametrize("groups", ["weight", "layer", 1, 2, 3, 5, 7, 11])
@pytest.mark.parametrize(("parts", "shapes"), CASES, ids=["fused qkv", "mixed"])
def test_scatter_of_gather_is_the_identity(parts, shapes, groups):
    grouping = Grouping(parts, shapes, groups)
    changes = [torch.randn(shape) for shape in grouping.shapes]
    vectors = grouping.gather(changes)
    assert [len(vector) for vector in vectors] == [stretch.size for stretch in grouping.stretches]
    assert sum(len(vector) for vector in vectors) == grouping.numbers + sum(s.padding for s in grouping.stretches)
    back = grouping.scatter(vectors)
    assert [change.shape for change in back] == [torch.Size(shape) for shape in grouping.shapes]
    assert all(torch.equal(*pair) for pair in zip(changes, back, strict=True))


def test_padding_lies_at_the_end_of_the_last_group_and_belongs_to_no_weight():
    grouping = Grouping(*CASES[0], 5)
    assert [stretch.padding for stretch in grouping.stretches] == [0, 0, 0, 0, 2]
    vectors = [torch.zeros(stretch.size) for stretch in grouping.stretches]
    vectors[-1][-2:] = float("nan")
    assert all(torch.isfinite(change).all() for change in grouping.scatter(vectors))


def test_weight_wise_and_layer_wise_groups_and_those_that_fall_on_borders_know_their_weights():
    parts, shapes = CASES[0]
    assert [s.shapes for s in Grouping(parts, shapes, "weight").stretches] == [((8, 8),)] * 12
    assert [s.shapes for s in Grouping(parts, shapes, "layer").stretches] == [((8, 8), (8, 8))] * 6
    assert [s.shapes for s in Grouping(parts, shapes, 4).stretches] == [((8, 8),) * 3] * 4
    assert [s.shapes for s in Grouping(parts, shapes, 12).stretches] == [((8, 8),)] * 12
    assert Grouping(parts, shapes, 5).stretches[1].shapes == ()


def test_queries_and_values_are_taken_layer_by_layer():
    assert queries_and_values(VIT)[:3] == [Part("blocks.0.attn.qkv", (0, 8)), Part("blocks.0.attn.qkv", (16, 24)),
                                           Part("blocks.1.attn.qkv", (0, 8))]  # fmt: skip
    assert queries_and_values(MIXED) == [Part("a.q_proj"), Part("a.v_proj"), Part("b.q_proj"), Part("b.v_proj")]
    with pytest.raises(ValueError, match="no queries and values among mlp.fc1; name the parts instead"):
        queries_and_values({"mlp.fc1": (3, 3)})


@pytest.mark.parametrize(
    ("parts", "groups", "message"),
    [
        ([Part("fc")], 1, "no weight of 'fc' to adapt; there are: conv, a.q_proj"),
        ([Part("a.q_proj", (3, 9))], 1, "rows 3 to 9 do not lie in the weight of 'a.q_proj', which has 6"),
        ([Part("a.q_proj", (3, 3))], 1, "rows 3 to 3 do not lie"),
        ([Part("a.q_proj"), Part("a.q_proj")], 1, "two parts of 'a.q_proj' share rows: all and all"),
        ([Part("a.q_proj", (0, 3)), Part("a.q_proj", (2, 5))], 1, r"share rows: \(0, 3\) and \(2, 5\)"),
        ([], 1, "there is no weight to adapt"),
        ([Part("a.q_proj")], 0, "0 groups of 30 numbers leave one empty; valid: 1 or fewer"),
        ([Part("a.q_proj")], 31, "31 groups of 30 numbers leave one empty; valid: 30 or fewer"),
        ([Part("a.q_proj")], 16, "16 groups of 30 numbers leave one empty; valid: 15 or fewer"),
        ([Part("a.q_proj")], -2, "-2 groups of 30 numbers leave one empty"),
        ([Part("a.q_proj")], "model", "groups 'model' is not known; valid: 'weight', 'layer', or a number of groups"),
        ([Part("a.q_proj")], True, "groups True is not known"),
    ],
)
def test_what_cannot_be_grouped_is_one_clear_error(parts, groups, message):
    with pytest.raises(ValueError, match=message):
        Grouping(parts, MIXED, groups)
