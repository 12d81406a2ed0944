"""Adapters of Hugging Face's peft, read from its files: LoRA, GLoRA, LoHa and LoKr. peft itself is not needed."""

import copy
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from glora_lib.glora.adapt import adapt
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.plain import refuse_adapted
from glora_lib.glora.space import Choice
from glora_lib.methods.dense import DenseChange
from glora_lib.methods.exchange import PREFIX, ExchangeError, fill, loha, lokr
from glora_lib.methods.locon import LoConv2d
from glora_lib.methods.lora import LoRALinear

# settings of peft's LoRA that change the function and that our layer has not
FOREIGN = ("use_dora", "lora_bias", "use_qalora", "use_bdlora", "fan_in_fan_out", "layer_replication", "target_parameters")
FOREIGN += ("trainable_token_indices", "alora_invocation_tokens", "megatron_config", "arrow_config")


def from_peft(folder: str | Path, model: nn.Module) -> nn.Module:
    """Return a copy of a plain model with the adapter of peft's in `folder`: LoRA, GLoRA, LoHa or LoKr.

    GLoRA gives an `AdaptedModel`; LoRA gives this library's layers; LoHa and LoKr give layers with the dense change that they
    come to. The model itself stays as it was. Raises ExchangeError, with every reason, for what cannot be expressed here.
    """
    refuse_adapted(model)
    config, tensors = _read(Path(folder))
    kinds = {"LORA": _read_lora, "GLORA": _read_glora, "LOHA": _read_dense, "LOKR": _read_dense}
    kind = str(config.get("peft_type"))
    if kind not in kinds:
        raise ExchangeError(f"{folder} cannot be read", [f"its peft_type is {kind}; known here: {', '.join(kinds)}"])
    model = copy.deepcopy(model)
    return kinds[kind](config, tensors, model).eval()


def _read(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8-sig"))
        file = folder / "adapter_model.safetensors"
        if file.exists() or not file.with_suffix(".bin").exists():
            found = load_file(file)
        else:
            found = torch.load(file.with_suffix(".bin"), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ExchangeError(f"{folder} cannot be read as an adapter of peft's", [" ".join(str(error).split())[:200]]) from error
    if broken := [f"{name} has NaN or infinity" for name, tensor in found.items() if not tensor.isfinite().all()]:
        raise ExchangeError(f"{folder} is a broken adapter", broken)
    return config, {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}


def _grouped(tensors: Mapping[str, Tensor], pattern: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return layer -> part -> tensor of what a pattern with a group `part` matches, and the tensors that it does not."""
    layers: dict[str, dict[str, Tensor]] = {}
    rest = {}
    for name, tensor in tensors.items():
        if found := re.fullmatch(rf"(?P<layer>.+)\.(?P<part>{pattern})", name):
            layers.setdefault(found["layer"], {})[found["part"]] = tensor
        else:
            rest[name] = tensor
    return layers, rest


def _read_lora(config: dict, tensors: dict[str, Tensor], model: nn.Module) -> nn.Module:
    reasons = [f"{name} is set ({config[name]!r}), which changes the function" for name in FOREIGN if config.get(name)]
    layers, rest = _grouped(tensors, r"lora_[AB]\.weight")
    made = {}
    for name, parts in layers.items():
        down, up, place = parts.get("lora_A.weight"), parts.get("lora_B.weight"), _module(model, name)
        if down is None or up is None:
            reasons.append(f"{name} lacks one of its two factors")
            continue
        rank = len(down)
        scale = _pattern(config, "alpha_pattern", name, config["lora_alpha"]) / (
            math.sqrt(rank) if config.get("use_rslora") else rank
        )
        if type(place) is nn.Linear and down.shape == (rank, place.in_features) and up.shape == (place.out_features, rank):
            made[name] = LoRALinear(place, rank, scale, config.get("lora_dropout") or 0.0)
            _copy(made[name].down, down[None]), _copy(made[name].up, up[None])
        elif isinstance(place, nn.Conv2d) and place.groups == 1 and up.shape[:2] == (place.out_channels, rank):
            made[name] = LoConv2d(place, rank, scale)
            _copy(made[name].down, down.flatten(1)), _copy(made[name].up, up.flatten(1))
        else:
            reasons.append(f"{name} is {_what(place)} here, for factors {tuple(up.shape)} and {tuple(down.shape)}")
    return _put(model, made, rest, reasons)


def _read_dense(config: dict, tensors: dict[str, Tensor], model: nn.Module) -> nn.Module:
    layers, rest = _grouped(tensors, r"(?:hada|lokr)_\w+")
    made, reasons = {}, []
    for name, parts in layers.items():
        place, rank = _module(model, name), _pattern(config, "rank_pattern", name, config["r"])
        if any("_t" in part for part in parts):
            reasons.append(f"{name} has a Tucker core, which is not read here")
        elif not isinstance(place, nn.Linear | nn.Conv2d):
            reasons.append(f"{name} is {_what(place)} here")
        else:
            scale = _pattern(config, "alpha_pattern", name, config["alpha"]) / rank
            made[name] = DenseChange(place, scale * (loha(parts) if "hada_w1_a" in parts else lokr(parts)))
    return _put(model, made, rest, reasons)


def _read_glora(config: dict, tensors: dict[str, Tensor], model: nn.Module) -> nn.Module:
    tensors = {name: t for name, t in tensors.items() if not (re.search(r"\.glora_[A-E]\.zeros$", name) and not t.any())}
    layers, rest = _grouped(tensors, r"glora_[A-E]\.X[du]?")
    reasons = [
        f"{name} is {_what(_module(model, name))} here" for name in layers if type(_module(model, name)) is not nn.Linear
    ]
    if reasons or not layers:
        raise ExchangeError("this adapter of peft's does not fit the model", reasons or ["it has no layer of GLoRA"])
    ranks = {part.shape[1] for parts in layers.values() for key, part in parts.items() if key.endswith("Xd")}
    net = adapt(model, rank=max(ranks, default=1), only=list(layers), train=())
    chosen = {}
    for name, parts in layers.items():
        forms = {}
        for tensor in "ABCDE":
            own = {key.rpartition(".")[2]: value for key, value in parts.items() if key.startswith(f"glora_{tensor}.")}
            forms[tensor] = _taken(net.layer(name), tensor, own)
        chosen[name] = Choice(**forms)
    if unknown := fill(net.model, rest):
        raise ExchangeError(
            "this adapter of peft's does not fit the model", [f"nothing here is called {name}" for name in unknown]
        )
    return net.use(chosen)


@torch.no_grad()
def _taken(layer: GLoRALinear, tensor: str, parts: Mapping[str, Tensor]) -> str:
    """Copy a support tensor of peft's into the layer; return its form."""
    if not parts:
        return "none"
    if "Xd" in parts:
        down, up = parts["Xd"], parts["Xu"]
        getattr(layer, f"{tensor}d")[:, : down.shape[1]] = down
        getattr(layer, f"{tensor}u")[: len(up)] = up
        return f"lora{down.shape[1]}"
    value = parts["X"].reshape(-1)
    if tensor in "DE":
        getattr(layer, tensor)[: len(value)] = value
    else:
        getattr(layer, f"{tensor}d")[: len(value), 0] = value
    return "scalar" if len(value) == 1 else "vector"


def _put(model: nn.Module, made: Mapping[str, nn.Module], rest: dict[str, Tensor], reasons: list[str]) -> nn.Module:
    """Return the model with the layers made, and with the other tensors in their places; raise for anything left over."""
    model.requires_grad_(False)
    # peft keeps the frozen original beside what is trained whole
    rest = {name: tensor for name, tensor in rest.items() if ".original_module." not in name}
    unknown = fill(model, {re.sub(r"\.(base_layer|modules_to_save)\.", ".", name): tensor for name, tensor in rest.items()})
    reasons += [f"nothing here is called {name}" for name in unknown]
    if reasons or not made:
        raise ExchangeError("this adapter of peft's cannot be expressed here", reasons or ["it has no adapted layer"])
    for name, layer in made.items():
        model.set_submodule(name, layer)
    return model


def _module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _what(module: nn.Module | None) -> str:
    return "nothing" if module is None else f"a {type(module).__name__}"


def _pattern(config: dict, which: str, name: str, default: int | float) -> int | float:
    """Return the value for a layer, where patterns of names give single layers their own."""
    for pattern, value in (config.get(which) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


@torch.no_grad()
def _copy(target: Tensor, value: Tensor) -> None:
    target.copy_(value)
