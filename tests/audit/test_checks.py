"""The exact checks, one by one: what they compute, and that they could come out otherwise."""

from itertools import product

import pytest
import torch

from glora_lib.audit import (
    counts,
    dimensions,
    equations,
    protocol,
    selection,
    superlora,
    superlora_table3,
    superset,
    table1,
    tables,
    theorem,
)
from glora_lib.glora.space import Choice, Space

pytestmark = pytest.mark.usefixtures("one_thread")


def test_group_means_of_table_1():
    means = table1.group_means()
    assert means.loc[("GLoRA", 0.86)].tolist() == pytest.approx([83.61, 87.03, 63.28, 77.97], abs=0.011)
    assert means.loc[("RepAdapter", 0.22)].tolist() == pytest.approx([81.63, 85.43, 61.23, 76.09], abs=0.011)
    assert len(means) == 15


def test_wins_and_gains_of_table_1():
    lost = {"cifar100", "retinopathy", "clevr_dist", "dspr_ori", "snorb_azim", "snorb_ele"}
    assert table1.tasks_won() == 13
    assert set(table1.ahead()[table1.ahead() <= 0].index) == lost
    assert {name: round(gain, 1) for name, gain in table1.largest_gains().items()} == {
        "average": 1.9,
        "group": 2.0,
        "task": 4.5,
    }
    assert "FacT" in table1.smaller()


def test_two_printed_averages_of_29_cannot_be_reached():
    rows = tables.recomputed()
    assert len(rows) == 29
    assert rows[rows["verdict"] != "match"]["id"].tolist() == [
        "table1/average/lora-0.29",
        "table2/average/llama-2-7b-glora-sharegpt",
    ]
    assert rows.set_index("id")["ours"]["table2/average/llama-2-7b-glora-sharegpt"] == pytest.approx(55.95)


def test_gains_of_table_3_and_losses_of_table_2():
    assert tables.domain_gain("a") == pytest.approx(92.75, abs=0.01)
    assert tables.domain_gain("sketch") == pytest.approx(53.0)
    assert len(tables.llm_losses()) == 5
    assert tables.kept_of_source()["v2"].idxmax() == "NOAH"


def test_few_shot_points():
    lead = tables.few_shot_ahead()
    assert len(lead) == 25
    assert ((lead > 0).sum(), (lead == 0).sum(), (lead < 0).sum()) == (19, 1, 5)
    assert tables.food_on_par() == pytest.approx(1.62)


def test_operations_of_table_4():
    assert protocol.prompt_flops(60) == pytest.approx(5.598, abs=5e-4)
    assert protocol.prompt_flops(0) == 0
    assert protocol.bottleneck_flops(8) == pytest.approx(0.029, abs=5e-4)
    assert protocol.evaluations("vision") == 1050
    assert protocol.evaluations("language") == 300


def test_shapes_of_the_printed_equations():
    table = dimensions.table().set_index(["reading", "term"])
    assert not table.loc["ICLR, as printed", "fits"].any()
    assert table.loc[("v1, as printed (d x d)", "W0 A"), "fits"]
    assert not table.loc[("v1, as printed (d x d)", "C W0"), "fits"]
    assert table.loc["the code", "fits"].all()
    assert dimensions.attempt((2, 3), "@", (3, 4)) == (2, 4)
    assert dimensions.attempt((2, 3), "*", (3, 4)) is None


def test_the_equation_written_out_notices_a_wrong_layer():
    layer = equations.random_layer().use(equations.FULL)
    x = torch.ones(1, 4, dtype=torch.float64)
    right = equations.written_out(layer, x)
    assert torch.allclose(layer(x), right, rtol=0, atol=1e-12)
    with torch.no_grad():
        layer.W0 += 1e-3
        assert (equations.written_out(layer, x) - right).abs().max() > 1e-4
    error, fused, choices = equations.largest_errors()
    assert choices == 900
    assert max(error, fused) < equations.EXACT


def test_fusion_adds_a_bias_and_only_where_there_is_none():
    assert equations.extra_parameters(bias=True) == 0
    assert equations.extra_parameters(bias=False) == 5
    assert sum(equations.swin_without_bias().values()) == 256 + 512 + 1024
    assert equations.llama_biases() == 524_288


def test_the_freedom_of_every_subnet_is_that_of_its_forms_side_by_side():
    largest, every = theorem.freedoms(4, 3, 1)
    choices = Space(("layer",), (1,)).choices()
    assert len(every) == len(choices) == 432
    for place in (0, 7, 100, 253, 431):
        assert every[place] == theorem.freedom(choices[place], 4, 3, 1)
    assert largest == max(every)


def test_freedom_after_fusion():
    assert theorem.freedom(Choice()) == 0
    assert theorem.freedom(Choice(E="vector")) == 6
    assert theorem.freedom(Choice(E="vector", C="vector", D="vector")) == 6
    assert theorem.freedom(Choice(B="lora1")) == 6 + 5 - 1


def test_vc_dimensions_counted_out():
    every = frozenset(product((0, 1), repeat=3))
    assert theorem.vc_dimension(every) == 3
    assert theorem.vc_dimension(every - {(1, 1, 1)}) == 2
    assert theorem.vc_dimension(frozenset({(0, 1, 1)})) == 0
    thresholds = frozenset({(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)})
    assert theorem.vc_dimension(thresholds) == 1
    with pytest.raises(ValueError, match="no hypothesis"):
        theorem.vc_dimension(frozenset())
    for part, whole in theorem.extremes():
        assert part < whole
        assert theorem.vc_dimension(whole) >= theorem.vc_dimension(part)  # Theorem 1 itself


@pytest.mark.parametrize("method", superset.ON_LINEAR_LAYERS)
def test_methods_on_linear_layers_are_points(method):
    assert superset.table().loc[method, "point"]


@pytest.mark.parametrize("method", superset.OTHERS)
def test_prompts_and_nonlinear_adapters_are_not(method):
    assert superset.table().loc[method, "residual"] > superset.OTHER
    assert not superset.table().loc[method, "point"]


def test_the_rank_that_a_method_takes_of_the_space():
    needed = {"lora": 8, "ssf": 0, "fact_tt": 16, "fact_tk": 16, "repadapter": 8, "bitfit": 0}
    assert superset.table()["rank"].dropna().to_dict() == needed
    assert superset.within(8) == ["lora", "ssf", "repadapter", "bitfit"]
    assert superset.within(4) == ["ssf", "bitfit"]


def test_a_wrong_point_would_be_noticed(monkeypatch):
    monkeypatch.setattr(superset, "as_point", lambda method, theirs, layer: superset.point(layer, E=layer.bias))
    assert superset.layer_error("lora") > superset.OTHER


def test_sizes_by_kind_of_layer_add_up():
    sizes = counts.size_by_kind(8)
    assert sum(sizes.values()) == pytest.approx(880_312, abs=1)
    assert min(sizes, key=sizes.get) == "attn.proj"
    assert counts.subnet_spread(8) == pytest.approx(115_000, rel=0.01)
    assert {n for group, n in counts.joint_choices((8, 4)).items() if len(group) == 1} == {3, 4, 5}


def test_luck_falls_with_images_and_is_the_same_every_time():
    few, many = selection.simulate(spread=0.0), selection.simulate(spread=0.0, images=5000)
    assert few.gain > 3 * many.gain > 0
    assert selection.simulate(spread=0.0, shared=0.9).gain < few.gain
    assert few == selection.simulate.__wrapped__(spread=0.0)
    assert selection.simulate.__wrapped__(subnets=1, spread=0.0).gain == pytest.approx(0, abs=0.5)
    assert selection.simulate.__wrapped__(spread=0.2, images=100_000, subnets=10).found > 0.9


def test_equation_2_of_superlora():
    core = superlora.tensor(2, 3, 2)
    factors = [superlora.tensor(4, 2), superlora.tensor(5, 3), superlora.tensor(6, 2)]
    wanted = torch.einsum("abc,ia,jb,kc->ijk", core, *factors)
    torch.testing.assert_close(superlora.tucker(core, factors), wanted)
    assert superlora.tensor(2, 3).shape == (2, 3)
    assert not torch.equal(superlora.tensor(2, 6).flatten(), superlora.tensor(3, 4).flatten())


def test_counts_of_superlora():
    assert superlora.lowest_lora() == 36_864
    assert [superlora.per_rank(order) for order in superlora.FOLDED] == [7_552, 728, 246, 136]
    assert superlora_table3.gpt2("qv") == 48 * 2**20
    assert superlora_table3.gpt2("lora") == 393_216
    assert superlora_table3.saving() == pytest.approx(70)


def test_the_hadamard_matrix_is_orthogonal():
    H = superlora.hadamard(8)
    assert torch.equal(H @ H.T, 8 * torch.eye(8, dtype=torch.float64))
    assert superlora.fastfood_gain(normalised=True) == pytest.approx(1, abs=0.25)
    assert superlora.fastfood_gain(normalised=False) == pytest.approx(64**2, rel=0.25)
