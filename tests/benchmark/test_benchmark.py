"""The benchmark: contestants that compute the same, measuring in turns, and the table. No test asserts a time."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.formula import dense, random_layer

import glora_lib as gl
from glora_lib.benchmark import device, fresh, limits, report, schedule, searching, steps
from glora_lib.benchmark.literal import LiteralLinear, literal
from glora_lib.benchmark.setting import Setting
from glora_lib.glora.space import Choice, Space

pytestmark = pytest.mark.usefixtures("one_thread")
SETTING = Setting(gl.PROFILES["smoke"], side=2, batch=4, rounds=1, epochs=1, generations=1)


@pytest.fixture
def no_records(monkeypatch, tmp_path):
    monkeypatch.setattr("glora_lib.runs.record.ROOT", tmp_path)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_literal_layer_is_the_formula_in_every_choice(bias):
    layer, x = random_layer(4, 3, bias, rank=4), torch.randn(5, 3, dtype=torch.float64)
    layer.__class__ = LiteralLinear
    for choice in Space(("layer",), (4, 2)).choices()[::7]:
        W, b = dense(layer, choice)
        torch.testing.assert_close(layer.use(choice)(x), x @ W.T + b, rtol=1e-12, atol=1e-12)


def test_our_step_and_the_literal_one_have_the_same_gradients(monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    scale = SETTING.profile.scale_broadcast
    ours, other = gl.adapt(SETTING.backbone(), rank=4, scale_broadcast=scale), literal(SETTING.backbone(), 4, scale)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    other.load_state_dict(ours.state_dict())
    for number in range(4):
        steps.step(ours, SETTING, part_size=3 * SETTING.image_size**2)(number)  # an image a part
        steps.step(other, SETTING, own=False)(number)
        assert ours.config == other.config
        pairs = {name: (p.grad, other.get_parameter(name).grad) for name, p in ours.named_parameters() if p.requires_grad}
        assert sum(first is not None for first, _ in pairs.values()) > 30
        for name, (first, second) in pairs.items():
            assert (first is None) == (second is None), name
            if first is not None:
                torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_all_steps_run_and_peft_s_models_train_the_same_tensors():
    for name in steps.STEPS:
        steps.named(name, SETTING)(1)
    fixed, theirs = steps.model("B alone", SETTING), steps.model("LoRA, peft", SETTING)
    sizes = [sum(p.numel() for p in net.parameters() if p.requires_grad) for net in (fixed, theirs)]
    assert sizes[0] == sizes[1]
    with pytest.raises(ValueError, match="valid: supernet"):
        steps.model("nothing", SETTING)


def test_visits_take_turns_and_the_first_round_is_not_counted():
    seen = []
    visits = {name: lambda number, name=name: seen.append((number, name)) for name in "abc"}
    seconds = steps.in_turns(visits, 4, seed=1)
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 4)
    rounds = [[name for number, name in seen if number == wanted] for wanted in range(5)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(map(tuple, rounds))) > 1


def test_a_supernet_s_step_takes_the_configuration_of_the_round():
    net = steps.model("supernet", SETTING)
    steps.step(net, SETTING)(7)
    assert net.config == Space(net.layer_names, SETTING.profile.ranks).sample(random.Random(7))


def test_operations_of_a_step_are_two_products_a_layer_and_three_with_a_dense_gradient():
    linear = torch.nn.Linear(3, 5, bias=False)
    x = torch.randn(7, 3, requires_grad=True)
    assert limits.operations(lambda _: linear(x).sum().backward()) == 3 * 2 * 7 * 3 * 5
    layer = random_layer(5, 3, rank=4).use(Choice("vector"))
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert limits.operations(lambda _: layer(x).sum().backward()) == 2 * 2 * 7 * 3 * 5


def test_rates_are_positive_and_of_both_types():
    rates = limits.product_rates(8, 16, repeats=1)
    assert set(rates) == {"float32", "bfloat16"}
    assert min(rates.values()) > 0


def test_the_limit_of_a_step_is_its_operations_over_the_rate():
    found = {"operations": {"forward": 4e9, "supernet": 8e9}, "rates": {"bfloat16": 4e9}}
    found["steps"] = {"bfloat16": {"forward, base": [2.0, 2.0], "supernet": [5.0, 4.0, 3.0]}}
    table = limits.beside_limit(found, "bfloat16")
    assert table.loc["supernet"].tolist() == [8.0, 2.0, 2.0, 4.0, 0.5]
    assert table.loc["forward"].tolist() == [4.0, 1.0, 1.0, 2.0, 0.5]


def test_a_search_is_projected_from_its_start_and_its_later_candidates():
    measured = {
        "seconds": [3.0, 1.0, 0.5, 1.5],
        "generation": [0, 0, 1, 1],
        "literal_seconds": [4.0, 5.0, 9.0],
        "population": 2,
    }
    assert searching.projected(measured, generations=3) == {"ours": 4 + 3 * 2 * 1.0, "theirs": 8 * 5.0, "ratio": 4.0}


def history(**changes) -> dict:
    times = {name: [2.0, 4.0, 3.0] for name in (*steps.STEPS, "forward, base", "forward, fused")}
    times |= {"supernet": [1.0, 2.0, 2.0], "fixed": [2.0, 4.0, 3.0]}
    memory = {name: {"before": 100.0, "peak": 200.0} for name in (*report.MEMORY, "supernet, whole batch")}
    search = {"seconds": [1.0, 1.0], "generation": [0, 1], "literal_seconds": [3.0], "population": 1}
    return {
        "rates": {"float32": 100.0, "bfloat16": 1.0},
        "steps": {"float32": times},
        "memory": memory | {"supernet": {"before": 100.0, "peak": 150.0}},
        "search": search,
        "start_up": {"import": [2.0, 2.5], "backbone": [4.0]},
        "operations": {"supernet": 240.0, "forward": 100.0},
    } | changes


def record(**changes) -> gl.Record:
    return gl.Record("benchmark", "t", "m", "cpu", 0, {}, {}, None, "nothing", {}, {}, history(**changes))


def test_the_table_says_what_is_reached_and_what_was_not_measured():
    rows = report.table(record()).set_index("what")
    assert rows.loc["supernet step, float32", ["measured", "n", "reached"]].tolist() == [2.0, 3, True]  # of 2, 2 and 1.5
    assert rows.loc["fixed-configuration step, float32", ["measured", "reached"]].tolist() == [1.0, False]
    assert rows.loc["LoRA step, B alone, float32", "reached"]
    assert rows.loc["memory of a step, supernet", ["measured", "reached"]].tolist() == [0.5, True]
    assert rows.loc["memory of a step, supernet, whole batch", ["measured", "reached"]].tolist() == [1.0, None]
    assert rows.loc["import, seconds", ["measured", "reached"]].tolist() == [2.25, True]
    assert not rows.loc["backbone, seconds", "reached"]
    for what in ("supernet step", "LoRA step, B alone", "one search"):
        row = rows.loc[f"{what}, bfloat16"]
        assert (row["n"], row["reached"]) == (0, None)
        assert "0.010 of float32's rate" in row["against"]


def test_the_paper_s_schedule_is_its_operations_over_the_rate():
    rates = schedule.rates(record())
    assert rates.to_dict() == {"training": 240 / 2, "evaluation": 100 / 3}
    hours = schedule.hours(record(), forward=10.0, rate=rates)
    assert hours["training"] == pytest.approx(19 * 500 * 768 * 10 * 2.4 / 120 / 3600)
    assert hours["evaluation"] == pytest.approx(19 * 1050 * 200 * 10 / (100 / 3) / 3600)
    assert hours["together"] == pytest.approx(hours["training"] + hours["evaluation"])


def in_this_process(option: str, program: str, request: str = "") -> str:
    """What a process of its own would print: of the seconds of a start two numbers, of the memory of steps this process's."""
    return "0.5 0.25" if option == "-c" else json.dumps(fresh._measure(json.loads(request)))


@pytest.mark.slow
def test_a_record_is_measured_once(monkeypatch, no_records):
    monkeypatch.setattr(fresh, "_python", in_this_process)  # notebook 06 starts others
    with pytest.raises(gl.RecordError, match="random_images--all--smoke--s0"):
        report.recorded(SETTING, "none")
    first = report.recorded(SETTING)
    assert np.isfinite(report.table(first).query("n > 0")["measured"]).all()
    assert first.history["search"]["agree"] == first.history["search"]["compared"] > 0
    assert set(first.history["memory"]) == {*report.MEMORY, "supernet, whole batch"}
    monkeypatch.setattr(report, "measure", lambda *_: pytest.fail("measured again"))
    assert report.recorded(SETTING) == first
    with pytest.raises(ValueError, match="none, missing, all"):
        report.recorded(SETTING, "maybe")


def test_a_step_that_takes_no_memory_of_its_own_gives_no_ratio():
    memory = {name: {"before": 100.0, "peak": 100.0} for name in (*report.MEMORY, "supernet, whole batch")}
    row = report.table(record(memory=memory)).set_index("what").loc["memory of a step, supernet"]
    assert (row["n"], row["reached"]) == (0, None)
    assert "no memory beyond" in row["against"]


TINY = device.Model("tiny", "test_vit", 16)


def test_steps_on_a_device_are_those_of_the_table(place, no_records):
    record = device.measure(place, [TINY], ("float32",), batch=2, rounds=1, runs=2)
    assert json.loads(json.dumps(record.history)) == record.history
    rows = device.table(record).set_index("step")
    names = ["forward, frozen", "supernet, literal", "supernet", "supernet, 2 at once", "LoRA", "LoRA, 2 at once"]
    assert list(rows.index) == [
        *names,
        "LoRA, peft",
        "GLoRA, peft",
        "full fine-tuning",
        "score, 25 at once",
        "score, 25 at once, no graph",
    ]
    assert rows["ms"].gt(0).all()
    assert rows["peak MB"].gt(0).all() if place.type == "cuda" else rows["peak MB"].isna().all()
    assert not rows["failed"].any()
    assert rows.loc["supernet, 2 at once", "ms a run"] == pytest.approx(rows.loc["supernet, 2 at once", "ms"] / 2)
    assert rows.loc["supernet, literal", "times as fast as literal"] == 1
    assert record.provenance["device"] == place.type


def test_a_step_that_fails_on_a_device_has_its_error_and_the_others_have_times(monkeypatch, no_records):
    def fails():
        raise torch.OutOfMemoryError("out of memory:\n  tried to allocate 80 GiB")

    def contestants(*asked):
        makers, operations = two(*asked)
        return {name: makers[name] for name in ("forward, frozen", "supernet")} | {"supernet, 2 at once": fails}, operations

    two = device.contestants
    monkeypatch.setattr(device, "contestants", contestants)
    said, kept = [], []
    record = device.measure(
        torch.device("cpu"), [TINY], ("bfloat16", "float32"), batch=2, rounds=1, runs=2,
        say=said.append, keep=lambda record: kept.append(list(record.history)),
    )  # fmt: skip
    assert kept == [["tiny, bfloat16"], ["tiny, bfloat16", "tiny, float32"]]
    rows = device.table(record).query("dtype == 'float32'").set_index("step")
    assert rows["ms"].notna().to_dict() == {"forward, frozen": True, "supernet": True, "supernet, 2 at once": False}
    assert rows.loc["supernet, 2 at once", "failed"] == "OutOfMemoryError: out of memory: tried to allocate 80 GiB"
    assert said[-1].startswith("tiny, float32, supernet, 2 at once: OutOfMemoryError")


def test_a_record_of_other_settings_is_in_the_way_before_anything_is_measured(monkeypatch, no_records):
    empty = gl.Record("benchmark", "random_images", "all", "smoke", 0, SETTING.plain(), {}, None, "nothing", {}, {})
    empty.provenance |= {"commit": "", "dirty": False}
    empty.save()
    monkeypatch.setattr(report.limits, "product_rates", lambda *_: pytest.fail("measured"))
    with pytest.raises(gl.RecordError, match=r"other settings, \(there, here\): {'batch': \(4, 5\)}; move it away"):
        report.recorded(replace(SETTING, batch=5))
    settings = {"models": ["tiny"], "dtypes": ["float32"], "batch": 2, "rounds": 1, "runs": 2}
    replace(empty, experiment="benchmark_device", method="processor", profile="gpu", settings=settings).save()
    monkeypatch.setattr(device, "contestants", lambda *_: pytest.fail("measured"))
    with pytest.raises(gl.RecordError, match=r"{'rounds': \(1, 3\)}; move it away"):
        device.measure(torch.device("cpu"), [TINY], ("float32",), batch=2, rounds=3, runs=2)


def test_the_paper_s_hours_come_from_the_steps_of_a_device():
    """19 tasks of 500 epochs of 12 steps of 64 images, and 1,050 candidates each."""
    seconds = {"supernet": [0.09, 0.1, 0.2], "supernet, 11 at once": [0.22], "score, 25 at once": [0.5]}
    part = {"seconds": seconds, "runs": {"supernet, 11 at once": 11, "score, 25 at once": 25}}
    record = gl.Record("b", "t", "m", "gpu", 0, {"batch": 64}, {}, None, "nothing", {}, {}, {"ViT, bfloat16": part})
    (row,) = schedule.hours_on_device(record).to_dict("records")
    assert row["training"] == pytest.approx(19 * 500 * 12 * 0.1 / 3600)
    assert row["training, 11 at once"] == pytest.approx(row["training"] * 0.02 / 0.1)
    assert row["search"] == pytest.approx(19 * 1050 * 0.02 / 3600)
    assert row["together, at once"] == pytest.approx(row["training, 11 at once"] + row["search"])
    del seconds["supernet, 11 at once"]  # it failed
    (row,) = schedule.hours_on_device(record).to_dict("records")
    assert np.isnan([row["training, 11 at once"], row["together, at once"]]).all()
    assert row["together"] == pytest.approx(row["training"] + row["search"])
