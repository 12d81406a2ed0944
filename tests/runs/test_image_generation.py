"""Images: what is trained, what is scored, and that a record holds it; the scores on cases that are known."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from glora_lib.backbones import unet as unets
from glora_lib.backbones.digits import load_classifier, new_classifier, save_classifier
from glora_lib.backbones.files import BackboneError
from glora_lib.data.digits import for_generation
from glora_lib.runs.image_generation import SETTINGS, _denoise, as_png, digits, execute, from_png, run, runs
from glora_lib.runs.record import Record
from glora_lib.runs.transfer_profile import IMAGES
from glora_lib.superlora import PRESETS, Part
from glora_lib.training.batch import TrainingError
from glora_lib.training.diffusion import noise_loss, sample
from glora_lib.training.scores import frechet, scores

SMOKE = IMAGES["smoke"]
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return unets.new_unet()


def test_digits_to_generate_are_dealt_once_and_backgrounds_do_not_repeat():
    plain, coloured = for_generation("mnist"), for_generation("mnist_m")
    assert {part: images.shape for part, (images, _) in plain.items()} == {
        "train": (4000, 28, 28, 3),
        "held_out": (1000, 28, 28, 3),
    }
    for part in plain:
        assert np.array_equal(plain[part][1], coloured[part][1])
        assert np.bincount(plain[part][1]).tolist() == [len(plain[part][1]) // 10] * 10
    seen = {image.tobytes() for image in plain["train"][0]}
    assert not seen & {image.tobytes() for image in plain["held_out"][0]}
    assert (plain["train"][0][..., 0] == plain["train"][0][..., 2]).all()
    assert (coloured["train"][0][..., 0] != coloured["train"][0][..., 2]).mean() > 0.5


def test_every_digit_has_a_colour_of_its_own_and_can_be_seen_on_it():
    images, labels = for_generation("mnist_colours")["train"]
    plain, same = for_generation("mnist")["train"]
    assert np.array_equal(labels, same)
    colours, white = images[:, 0, 0].astype(int), plain[..., 0] == 255
    assert len(np.unique(colours, axis=0)) > 3900
    inside = np.array([image[mask].mean(0) for image, mask in zip(images, white, strict=True) if mask.any()])
    behind = colours[white.any((1, 2))]
    np.testing.assert_allclose(inside, 255 - behind, atol=1e-9)
    assert np.abs(inside - behind).min() >= 63
    again = for_generation("mnist_colours")["train"][0]
    assert np.array_equal(images, again)


def test_house_numbers_come_from_vtab_s_folder(tmp_path, monkeypatch):
    folder = tmp_path / "vtab-1k" / "svhn"
    (folder / "images").mkdir(parents=True)
    lists = {"train800.txt": [3, 4], "val200.txt": [5], "test.txt": [0, 1, 2, 7]}
    for name, numbers in lists.items():
        for number in numbers:
            Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / "images" / f"{number}.png")
        (folder / name).write_text("".join(f"images/{number}.png {number}\n" for number in numbers))
    monkeypatch.setenv("GLORA_DATA_DIR", str(tmp_path))
    found = for_generation("svhn")
    assert {part: (images.shape, labels.tolist()) for part, (images, labels) in found.items()} == {
        "train": ((4, 28, 28, 3), [0, 1, 2, 7]),
        "held_out": ((3, 28, 28, 3), [3, 4, 5]),
    }
    assert found["train"][0][3].reshape(-1, 3).tolist() == [[7, 0, 0]] * 784


def test_digits_that_there_are_not_say_which_there_are():
    with pytest.raises(ValueError, match="no digits 'cifar' to generate; valid: mnist, mnist_colours, mnist_m, svhn"):
        for_generation("cifar")


def test_only_attentions_are_adapted_and_every_setting_fits_them(unet):
    names = unets.attention_layers(unet)
    assert len(names) == 4 * 7
    assert sum(unet.get_submodule(name).weight.numel() for name in names) == 77_824
    sizes = {}
    for name, (preset, options) in SETTINGS.items():
        net = PRESETS[preset](**options).adapt(unet, [Part(layer) for layer in names], train=())
        sizes[name] = sum(row["parameters"] for row in net.report())
        assert {n.split(".")[0] for n, p in net.named_parameters() if p.requires_grad} == {"groups"}
    assert (min(sizes.values()), max(sizes.values())) == (112, 77_824)
    assert sizes["LoRA r=1"] == 2816


def test_the_noise_loss_is_that_of_the_added_noise_and_drops_labels():
    seen = []

    def perfect(x, time, labels):
        seen.append(labels)
        generator = torch.Generator().manual_seed(5)
        return torch.randn(x.shape, generator=generator)

    pictures, labels = torch.zeros(400, 3, 4, 4), torch.arange(400) % 10
    assert noise_loss(perfect, pictures, labels, 10, torch.Generator().manual_seed(5)) == 0
    assert 0.05 < (seen[0] == 10).double().mean() < 0.16
    kept = seen[0] != 10
    assert torch.equal(seen[0][kept], labels[kept])


def test_sampling_is_fixed_by_its_seed_and_guidance_leans_on_the_class():
    def model(x, time, labels):  # knows that class 0 is black and class 1 white, and nothing without one
        towards = torch.where(labels == 10, 0.0, labels * 2.0 - 1.0).view(-1, 1, 1, 1)
        return x - 0.2 * towards

    labels = torch.tensor([0, 1] * 3)
    found = [
        sample(model, labels, (3, 4, 4), 10, steps=5, seed=seed, guidance=g)
        for seed, g in ((0, 1.0), (0, 1.0), (1, 1.0), (0, 4.0))
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert found[0].abs().max() <= 1
    assert found[0][1::2].mean() > found[0][::2].mean()
    assert found[3][1::2].mean() > found[0][1::2].mean()


def test_scores_of_known_answers():
    labels = torch.arange(200) % 10
    pictures = torch.zeros(200, 3, 28, 28)
    pictures[:, 0, 0, 0] = labels

    def certain(x):
        return 50.0 * nn.functional.one_hot(x[:, 0, 0, 0].long(), 10)

    sure = scores(certain, pictures, labels)
    assert sure == pytest.approx({"inception_score": 10.0, "l1_score": 1.8, "as_asked": 1.0}, abs=1e-6)
    with pytest.raises(TrainingError, match="the classifier's answers are not finite"):
        scores(lambda x: torch.full((len(x), 10), torch.nan), pictures, labels)
    unsure = scores(lambda x: torch.zeros(len(x), 10), pictures, labels)
    assert unsure == pytest.approx({"inception_score": 1.0, "l1_score": 0.0, "as_asked": 0.1}, abs=1e-6)
    one = scores(lambda x: 50.0 * torch.eye(10)[torch.zeros(len(x), dtype=torch.long)], pictures, labels)
    assert one == pytest.approx({"inception_score": 1.0, "l1_score": 0.0, "as_asked": 0.1}, abs=1e-6)


def test_the_frechet_distance_is_that_of_normal_distributions():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=generator)
    b = torch.randn(4000, 3, generator=generator) * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([1.0, 0.0, -2.0])
    assert frechet(a, a) == pytest.approx(0, abs=1e-4)
    assert frechet(a, b) == pytest.approx(5 + 0 + 1 + 4, rel=0.06)  # |mean|^2 and (1 - s)^2 of each
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-6)


def test_pictures_fit_into_a_record():
    pictures = torch.rand(10, 3, 28, 28) * 2 - 1
    back = from_png(as_png(pictures))
    assert back.shape == (28, 280, 3)
    row = ((torch.cat(list(pictures), dim=2) + 1) * 127.5).round().permute(1, 2, 0)
    assert np.abs(back - row.numpy()).max() <= 1
    images, labels = digits("mnist")["held_out"]
    assert (images.shape, images.min(), images.max()) == ((1000, 3, 28, 28), -1, 1)
    assert labels.tolist() == for_generation("mnist")["held_out"][1].tolist()


def test_files_of_weights_come_back_and_what_does_not_fit_says_so(tmp_path, unet):
    digest = unets.save_unet(unet, tmp_path / "unet.safetensors")
    assert len(digest) == 64
    assert (tmp_path / "unet.safetensors").stat().st_size < 5e6
    again = unets.load_unet(tmp_path / "unet.safetensors")
    for (name, p), q in zip(unet.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4, msg=name)
    save_classifier(new_classifier(), tmp_path / "classifier.safetensors")
    assert load_classifier(tmp_path / "classifier.safetensors")(torch.zeros(2, 3, 28, 28)).shape == (2, 10)
    with pytest.raises(BackboneError, match="there is no none.safetensors; make it with runs.image_generation.prepare"):
        unets.load_unet(tmp_path / "none.safetensors")
    with pytest.raises(BackboneError, match="classifier.safetensors does not fit this U-Net"):
        unets.load_unet(tmp_path / "classifier.safetensors")
    with pytest.raises(BackboneError, match="unet.safetensors does not fit"):
        load_classifier(tmp_path / "unet.safetensors")


def test_a_run_leaves_a_record_and_adapts_nothing_else():
    one = run("LoRA r=1", SMOKE)
    found = execute(one)
    assert isinstance(found, Record)
    assert (found.experiment, found.method, found.cost["trained"]) == ("image_generation", "LoRA_r=1", 2816)
    assert {"held_out_loss", "inception_score", "l1_score", "as_asked", "frechet", "n_pictures"} <= set(found.metrics)
    assert found.settings["options"] == {"r": 1}
    assert from_png(found.history["pictures"]).shape == (28, 280, 3)
    source = execute(runs(SMOKE)[0])
    assert (source.method, source.cost["trained"]) == ("source", 0)
    assert source.metrics["held_out_loss"] != found.metrics["held_out_loss"]


def test_an_interrupted_run_does_not_go_on_with_other_pictures_or_another_source(tmp_path):
    pictures, labels, model = torch.zeros(8, 3, 28, 28), torch.arange(8), unets.new_unet()
    net = PRESETS["dense"]().adapt(model, [Part(name) for name in unets.attention_layers(model)], train=())

    def go_on(pictures):
        return _denoise(net, (pictures, labels), 2, 4, 1e-3, 0, tmp_path / "train.pt")

    losses = go_on(pictures)
    assert go_on(pictures) == losses
    with pytest.raises(TrainingError, match="was made for other data"):
        go_on(pictures + 1)
    with torch.no_grad():
        next(p for p in model.parameters() if not p.requires_grad).add_(1)
    with pytest.raises(TrainingError, match="was made for other frozen weights"):
        go_on(pictures)


def test_runs_are_the_source_every_setting_and_the_repeated_ones():
    found = runs(IMAGES["cpu"])
    assert len(found) == 1 + len(SETTINGS) + 2 * 5 == len({one.id for one in found})
    assert len(found) >= 20
    assert set(IMAGES["cpu"].repeated) <= set(SETTINGS)
