"""The fused model as files that need nothing of this library: .safetensors, .onnx, and a program that uses them."""

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn

from glora_lib.data.own import Own
from glora_lib.data.pixels import sixteen_bits
from glora_lib.data.task import MEAN, STD
from glora_lib.training.files import replacing

CHECKED = 16  # pictures that the ONNX file is tried on
CLOSE = 1e-3  # by which its outputs may differ

PROGRAM = '''"""Names the class of pictures: python load_it.py picture.jpg ...   Needs timm, safetensors and Pillow."""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

CLASSES = {classes!r}
model = timm.create_model({architecture!r}, num_classes={number}{size})
model.load_state_dict(load_file(Path(__file__).with_name("model.safetensors")))
model.eval()
mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in ({mean}, {std}))
for path in sys.argv[1:]:
    picture = Image.open(path)
{sixteen}{white}    picture = picture.convert("RGB").resize(({pixels}, {pixels}), Image.Resampling.BICUBIC)
    x = (torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy()).float() - mean) / std
    with torch.no_grad():
        print(path, CLASSES[model(x[None]).argmax(1).item()])
'''
SIXTEEN = """    if picture.mode.startswith("I"):  # 16 bits
        picture = Image.fromarray((np.asarray(picture) / 257).round().astype("uint8"))
"""
ON_WHITE = """    picture = picture.convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
"""


def write_model(plain: nn.Module, own: Own, out: Path, image_size: int) -> nn.Module:
    """Write model.safetensors and load_it.py; return the model as timm alone makes it of the file.

    The file's metadata have the architecture, the classes, and what is done to a picture.
    """
    architecture, arguments = call(plain, own.task.classes, image_size)
    card = {"architecture": architecture, "arguments": arguments, "classes": list(own.task.class_names)}
    card |= {"image_size": image_size, "mean": MEAN, "std": STD}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in plain.state_dict().items()}
    with replacing(out / "model.safetensors") as temporary:
        temporary.write_bytes(save(state, {"model card": json.dumps(card)}))
    program = PROGRAM.format(
        classes=list(own.task.class_names), architecture=architecture, number=own.task.classes, mean=MEAN, std=STD,
        size=f", img_size={image_size}" if arguments else "", pixels=image_size,
        sixteen=SIXTEEN if any(sixteen_bits(path) for part in own.files.values() for path in part) else "",
        white=ON_WHITE if any("transparent" in note for note in own.task.notes) else "",
    )  # fmt: skip
    with replacing(out / "load_it.py") as temporary:
        temporary.write_text(program, encoding="utf-8")
    return timm_alone(out / "model.safetensors", architecture, own.task.classes, arguments)


def call(plain: nn.Module, classes: int, image_size: int) -> tuple[str, dict]:
    """Return the architecture's name and the arguments with which timm alone makes the same model."""
    import timm

    architecture = plain.pretrained_cfg["architecture"]
    try:
        with torch.device("meta"):
            timm.create_model(architecture, num_classes=classes, img_size=image_size)
    except TypeError:
        return architecture, {}
    return architecture, {"img_size": image_size}


def timm_alone(file: Path, architecture: str, classes: int, arguments: dict) -> nn.Module:
    """Return the model in a file, made by timm and by nothing else."""
    import timm

    model = timm.create_model(architecture, num_classes=classes, **arguments)
    model.load_state_dict(load_file(file))
    return model.eval()


@torch.no_grad()
def onnx(model: nn.Module, own: Own, path: Path) -> str:
    """Write the model's ONNX form, with any number of pictures at once; return its path, or why it is not there.

    It is computed by onnx's own reference evaluator on some test pictures, and removed if its outputs are others.
    """
    from onnx import load
    from onnx.reference import ReferenceEvaluator

    chosen = list(range(min(CHECKED, len(own.task.test))))
    images = own.task.test[chosen][0]
    axes = {"images": {0: "pictures"}, "logits": {0: "pictures"}}
    try:
        with replacing(path) as temporary, warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                model, (images[:2].repeat(2, 1, 1, 1)[:2],), str(temporary), dynamo=False, input_names=["images"],
                output_names=["logits"], dynamic_axes=axes,
            )  # fmt: skip
            found = ReferenceEvaluator(load(str(temporary))).run(None, {"images": images.numpy()})[0]
            expected = model(images).numpy()
            apart = float(np.abs(found - expected).max())
            if not apart <= CLOSE or (found.argmax(1) != expected.argmax(1)).any():
                raise RuntimeError(f"its outputs differ by {apart:.1e}")
    except Exception as error:  # an operator that ONNX does not have, or one that its evaluator lacks
        return f"not written: {' '.join(str(error).split())[:160]}"
    return f"{path}, outputs within {apart:.0e} of torch's on {len(chosen)} pictures"
