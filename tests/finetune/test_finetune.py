"""From a folder to a plain model: what timm alone loads gives what was reported, and a killed run goes on."""

import json
import os
import runpy
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from PIL import Image

import glora_lib as gl
from glora_lib.finetune import pipeline
from glora_lib.finetune.__main__ import main
from glora_lib.finetune.pipeline import FUSABLE, FinetuneError, refuse_another
from glora_lib.finetune.report import Report, wilson

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::UserWarning")]
TINY = {"backbone": "test_vit", "weights": "random", "image_size": 32, "epochs": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Thirty JPEGs of each of two classes, bright or dark, and one with transparent parts."""
    root, rng = tmp_path_factory.mktemp("own") / "lights", np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (root / name).mkdir(parents=True)
        for index in range(30):
            pixels = rng.normal(level, 50, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.jpg")
    Image.new("RGBA", (20, 20), (0, 0, 0, 40)).save(root / "light" / "glass.png")
    return root


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """The report of a run with GLoRA, its folder, and what it said."""
    said, out = [], tmp_path_factory.mktemp("finished")
    torch.manual_seed(99)  # of no influence
    return gl.finetune(pictures, out=out, say=said.append, **TINY), out, said


def test_everything_is_there_and_said(finished):
    report, out, said = finished
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "model.onnx", "adapter.safetensors", "load_it.py", "report.json", "settings.json"} <= names
    assert said[0] == "lights: 2 classes, 37 train, 12 val, 12 test"
    assert any("may have transparent parts" in line for line in said)
    assert any(line.startswith("early: chance") and "linear probe" in line for line in said)
    estimate, first = (
        next(i for i, line in enumerate(said) if text in line) for text in ("on this machine", "training: epoch 1")
    )
    assert estimate < first
    assert Report.load(out / "report.json") == report
    assert report.accuracy == np.trace(report.confusion) / 12
    assert report.interval[0] < report.accuracy <= report.interval[1]
    assert [h["probability"] for h in report.hardest] == sorted(h["probability"] for h in report.hardest)
    text = str(report)
    assert f"{report.accuracy:.1%} of 12 test pictures" in text
    assert "within" in report.written["onnx"]


def test_timm_alone_gives_the_reported_accuracy(finished):
    """The program that was written, in a process of its own that has nothing of this library."""
    report, out, _ = finished
    program = out / "load_it.py"
    assert "glora" not in program.read_text()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(program), *report.files]
    lines = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    guesses = [line.rsplit(" ", 1)[1] for line in lines]
    assert guesses == [report.classes[label] for label in report.predictions]
    right = sum(guess in path.split(os.sep) for guess, path in zip(guesses, report.files, strict=True))
    assert right / len(lines) == report.accuracy


def test_the_onnx_file_gives_the_same(finished):
    report, out, _ = finished
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    found = ReferenceEvaluator(onnx.load(str(out / "model.onnx"))).run(None, {"images": images})[0]
    card = json.loads(gl_metadata(out / "model.safetensors")["model card"])
    from glora_lib.finetune.export import timm_alone

    model = timm_alone(out / "model.safetensors", card["architecture"], 2, card["arguments"])
    with torch.no_grad():
        np.testing.assert_allclose(found, model(torch.from_numpy(images)).numpy(), atol=1e-4)


def gl_metadata(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def test_the_adapter_gives_the_fused_model_on_its_backbone(finished):
    report, out, _ = finished
    base = gl.load_backbone("test_vit", classes=2, image_size=32, weights="random")
    net = gl.restore(base, out / "adapter")
    from safetensors.torch import load_file

    for name, tensor in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(gl.fuse(net).state_dict()[name], tensor)
    assert sum(layer.numel() for layer in load_file(out / "adapter.safetensors").values()) == report.sizes["stored"] + 130


@pytest.mark.parametrize("moment", ["training: epoch 2", "search: 30 of"])
def test_a_run_that_is_killed_goes_on_and_gives_the_same(finished, pictures, tmp_path, moment, monkeypatch):
    def killed(line: str) -> None:
        if line.startswith(moment):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gl.finetune(pictures, out=tmp_path, say=killed, **TINY)
    assert not (tmp_path / "report.json").exists()
    said, whole = [], pipeline.train_supernet  # which tells the seconds of epochs before the kill, too
    monkeypatch.setattr(pipeline, "train_supernet", lambda *a, **k: [epoch | {"seconds": 1e4} for epoch in whole(*a, **k)])
    again = gl.finetune(pictures, out=tmp_path, say=said.append, **TINY)
    assert any("going on from epoch 1" in line for line in said) == (moment == "training: epoch 2")
    report = finished[0]
    assert (again.predictions, again.confusion, again.accuracy) == (report.predictions, report.confusion, report.accuracy)
    assert again.sizes == report.sizes
    assert again.seconds["train"] == 1e4 * TINY["epochs"]
    assert again.seconds["all"] > again.seconds["train"] + again.seconds["search"]


def test_a_finished_run_is_not_computed_again_and_another_is_refused(finished, pictures):
    report, out, _ = finished
    assert gl.finetune(pictures, out=out, say=lambda line: pytest.fail(line), **TINY) == report
    with pytest.raises(FinetuneError, match=r"holds another run, \(there, here\): {'epochs': \(2, 3\)}; name another folder"):
        gl.finetune(pictures, out=out, **TINY | {"epochs": 3})
    with pytest.raises(FinetuneError, match=r"'seed': \(0, 1\)"):
        gl.finetune(pictures, out=out, **TINY, seed=1)


def test_settings_that_cannot_be_read_are_refused_and_stay_as_they_are(tmp_path):
    (tmp_path / "settings.json").write_text('{"epochs": 2, ')
    with pytest.raises(FinetuneError, match=r"holds another run, \(there, here\): {'epochs': \(None, 3\)}"):
        refuse_another(tmp_path, {"epochs": 3})
    assert (tmp_path / "settings.json").read_text() == '{"epochs": 2, '


@pytest.mark.parametrize("method", ["linear", "lora", "ssf", "bitfit"])
def test_other_methods_that_fuse(pictures, tmp_path, method):
    report = gl.finetune(pictures, out=tmp_path, method=method, say=lambda line: None, **TINY)
    assert report.method == method
    assert report.accuracy >= 0.5


def test_glora_on_a_convnet_acts_on_its_convolutions_and_timm_alone_gives_the_same(pictures, tmp_path, predicted):
    options = TINY | {"backbone": "test_resnet", "epochs": 1}
    report = gl.finetune(pictures, out=tmp_path, say=lambda line: None, **options)
    assert report.sizes["stored"] > 0
    assert predicted(tmp_path, report.files) == [report.classes[place] for place in report.predictions]
    plain = gl.load_backbone("test_resnet", classes=2, image_size=32, weights="random")
    net = gl.restore(plain, tmp_path / "adapter")
    assert set(net.kinds.values()) <= {"conv", "weight"}


def test_the_program_gives_pictures_of_16_bits_the_reported_classes(tmp_path, predicted):
    rng = np.random.default_rng(0)
    for index in range(16):
        path = tmp_path / "own" / ("a" if index % 2 else "b") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 65536, (9, 9)).astype(np.uint16)).save(path)
    report = gl.finetune(tmp_path / "own", out=tmp_path / "out", say=lambda line: None, **TINY | {"method": "linear"})
    assert predicted(tmp_path / "out", report.files) == [report.classes[place] for place in report.predictions]


@pytest.fixture
def predicted(monkeypatch, capsys):
    """Give a function that returns what the program beside a model says of pictures; nothing in it is of this library."""

    def predict(out, files) -> list[str]:
        assert "glora" not in (out / "load_it.py").read_text()
        monkeypatch.chdir(out)
        monkeypatch.setattr(sys, "argv", ["load_it.py", *files])
        capsys.readouterr()
        runpy.run_path("load_it.py", run_name="__main__")
        return [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()]

    return predict


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"epochs": -1}, {"image_size": 0}])
def test_numbers_that_mean_nothing_are_refused(pictures, tmp_path, wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        gl.finetune(pictures, out=tmp_path, **TINY | wrong)
    assert not list(tmp_path.iterdir())


def test_a_convnet(pictures, tmp_path):
    options = TINY | {"backbone": "test_resnet", "method": "bitfit"}
    report = gl.finetune(pictures, out=tmp_path, say=lambda line: None, **options)
    assert "img_size" not in (tmp_path / "load_it.py").read_text()
    assert len(report.predictions) == 12


@pytest.mark.parametrize("method", ["vpt_deep", "adapter", "noah", "lorra"])
def test_a_method_that_leaves_no_plain_model_is_refused(pictures, method):
    with pytest.raises(FinetuneError, match=f"'{method}' leaves no plain model"):
        gl.finetune(pictures, method=method)
    assert method not in FUSABLE


def test_pictures_of_one_colour_and_few_of_them_give_a_report(tmp_path):
    for index in range(20):
        path = tmp_path / "own" / ("a" if index % 2 else "b") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * index, 0, 0)).save(path)
    report = gl.finetune(tmp_path / "own", out=tmp_path / "out", say=lambda line: None, **TINY)
    assert "20 pictures are of one colour all over" in report.notes
    assert report.pictures == {"train": 12, "val": 4, "test": 4}


def test_the_command_line_says_what_is_wrong_in_one_line(pictures, tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.startswith("finetune: there is no")
    arguments = ["--out", str(tmp_path / "out"), "--backbone", "test_vit", "--weights", "random", "--epochs", "1"]
    assert main([str(pictures), *arguments, "--image-size", "42"]) == 2
    assert "42 is no multiple of 16, 32 is" in capsys.readouterr().err
    assert main([str(pictures), *arguments, "--image-size", "32", "--method", "linear"]) == 0
    assert "test pictures, 95 % between" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_wilson_s_interval(right, n, low, high):
    """Values of the closed form, as in Wilson 1927; near 0 and 1 it stays inside."""
    assert wilson(right, n) == pytest.approx((low, high), abs=1e-4)
