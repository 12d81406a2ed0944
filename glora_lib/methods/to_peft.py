"""LoRA, LoHa, LoKr and GLoRA in the form of Hugging Face's peft, for its own loader. peft itself is not needed.

peft's GLoRA has one form for A and B, one for C and one for D and E, the same in all layers. A smaller form is written as a
larger one with the same function: a scalar as a vector, a vector as LoRA, none as zeros. In layers without bias peft drops C, D
and E, so that C and E cannot be written there.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from glora_lib.glora.fusable import Fusable
from glora_lib.glora.layer import GLoRALinear
from glora_lib.glora.model import AdaptedModel
from glora_lib.glora.space import lora_rank
from glora_lib.methods import superlora_to_peft
from glora_lib.methods.exchange import PREFIX, ExchangeError
from glora_lib.methods.locon import LoConv2d
from glora_lib.methods.lora import LoRALinear
from glora_lib.superlora.model import SuperLoRAModel
from glora_lib.training.files import replacing
from glora_lib.training.wrappers import unwrapped

LEVELS = ("none", "scalar", "vector", "lora")  # each can be written as any later one
THEIRS = {"none": "none", "scalar": "constant", "vector": "vector", "lora": "lora"}


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter in peft's form. `widened` says which forms were written as larger ones with the same function."""

    config: dict
    tensors: dict[str, Tensor] = field(repr=False)
    widened: tuple[str, ...] = ()

    def save(self, folder: str | Path) -> Path:
        """Write adapter_config.json and adapter_model.safetensors into a folder, for `PeftModel.from_pretrained`; return it."""
        folder = Path(folder)
        with replacing(folder / "adapter_model.safetensors") as temporary:
            temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, {"format": "pt"}))
        with replacing(folder / "adapter_config.json") as temporary:
            temporary.write_text(json.dumps(self.config, indent=1), encoding="utf-8")
        return folder


def to_peft(net: nn.Module, folder: str | Path | None = None) -> PeftAdapter:
    """Return a model that LoRA, GLoRA or SuperLoRA adapted as an adapter for peft, and write it into `folder` if one is given.

    The function is the same: what was trained whole goes along as `modules_to_save`. SuperLoRA's can be written where each
    group is one weight's and its unit is LoRA, LoHa or LoKr. Raises ExchangeError, with every reason, for what peft cannot
    express and for numbers that are not finite, and writes nothing then.
    """
    net = unwrapped(net)
    wrapped = isinstance(net, AdaptedModel | SuperLoRAModel)
    inner = unwrapped(net.model) if wrapped else net
    ours = {name: module for name, module in inner.named_modules() if isinstance(module, Fusable)}
    reasons = [
        f"{name or 'the model'} is a {type(m).__name__}"
        for name, m in ours.items()
        if type(m) not in (GLoRALinear, LoRALinear, LoConv2d)
    ]
    if not ours and not wrapped:
        raise ExchangeError("there is nothing of LoRA or GLoRA in this model to write for peft", ["it has no adapted layer"])
    if isinstance(net, SuperLoRAModel):
        config, tensors, widened = superlora_to_peft.written(net, reasons)
    else:
        config, tensors, widened = (_glora if wrapped else _lora)(ours, reasons)
    saved = _saved(inner, ours, reasons)
    reasons += [f"{name} has NaN or infinity" for name, tensor in (tensors | saved).items() if not tensor.isfinite().all()]
    if reasons:
        raise ExchangeError("peft cannot express this adapter", list(dict.fromkeys(reasons)))
    names = sorted({name.rpartition(".")[0] for name in saved})
    config |= {"target_modules": "|".join(map(re.escape, sorted(_layers_of(tensors)))), "modules_to_save": names or None}
    config |= {"base_model_name_or_path": None, "inference_mode": True, "task_type": None}
    adapter = PeftAdapter(config, {PREFIX + name: t.detach().cpu().clone() for name, t in (tensors | saved).items()}, widened)
    if folder is not None:
        adapter.save(folder)
    return adapter


def _lora(ours: Mapping[str, nn.Module], reasons: list[str]) -> tuple[dict, dict[str, Tensor], tuple[str, ...]]:
    tensors, alphas, ranks = {}, {}, {}
    for name, layer in ours.items():
        if isinstance(layer, LoConv2d):
            if layer.conv.groups > 1:
                reasons.append(f"{name} is a convolution with groups, whose LoRA has another shape in peft")
                continue
            up, down = layer.up[:, :, None, None], layer.down.view(len(layer.down), *layer.conv.weight.shape[1:])
        elif isinstance(layer, LoRALinear):
            up, down = layer.factors()
        else:
            reasons.append(f"{name} is a {type(layer).__name__}")
            continue
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        ranks[name], alphas[name] = len(down), layer.scale * len(down)
    rank, alpha = (max(values.values(), default=1) for values in (ranks, alphas))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{re.escape(name)}$": value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {f"^{re.escape(name)}$": value for name, value in alphas.items() if value != alpha},
        "lora_dropout": max((layer.dropout.p for layer in ours.values() if isinstance(layer, LoRALinear)), default=0.0),
        "bias": "none",
    }
    return config, tensors, ()


def _glora(ours: Mapping[str, nn.Module], reasons: list[str]) -> tuple[dict, dict[str, Tensor], tuple[str, ...]]:
    layers = {name: layer for name, layer in ours.items() if type(layer) is GLoRALinear}
    layers = {name: layer for name, layer in layers.items() if any(form != "none" for form in layer.choice.forms)}
    for name, layer in layers.items():
        if layer.b0 is None and (chosen := [t for t in "CE" if getattr(layer.choice, t) != "none"]):
            reasons.append(f"{name} has no bias, and peft drops {' and '.join(chosen)} there")
    groups = {"AB": "config_A_B", "C": "config_C", "DE": "config_D_E"}
    levels = {
        group: max((_level(getattr(layer.choice, t)) for layer in layers.values() for t in group), default=0)
        for group in groups
    }
    rank = max((lora_rank(form) for layer in layers.values() for form in layer.choice.forms), default=1) or 1
    tensors, widened = {}, []
    for name, layer in layers.items():
        for group, level in levels.items():
            if level == 0 or (group != "AB" and layer.b0 is None):
                continue
            for tensor in group:
                form = getattr(layer.choice, tensor)
                if _level(form) < level or (lora_rank(form) and lora_rank(form) < rank):
                    widened.append(f"{tensor} of {name}: {form} as {LEVELS[level]}{rank if level == 3 else ''}")
                parts = _written(layer, tensor, level, rank)
                tensors |= {f"{name}.glora_{tensor}.{part}": value for part, value in parts.items()}
    config = {"peft_type": "GLORA", "r": rank, "bias": "none"}
    config |= {groups[group]: THEIRS[LEVELS[level]] for group, level in levels.items()}
    return config, tensors, tuple(widened)


def _level(form: str) -> int:
    return LEVELS.index("lora" if lora_rank(form) else form)


def _written(layer: GLoRALinear, tensor: str, level: int, rank: int) -> dict[str, Tensor]:
    """Return a support tensor in peft's form of that level: X, or Xd and Xu."""
    rows, columns = (layer.in_features, 1) if tensor == "C" else (layer.out_features, layer.in_features)
    form, zeros, found = getattr(layer.choice, tensor), layer.W0.new_zeros, layer._tensor(tensor)
    if tensor in "DE":
        value = zeros(rows if level == 2 else 1)
        return {"X": value if found is None else found.expand_as(value)}
    if level < 3:
        value = zeros(rows if level == 2 else 1, 1)
        value = value if found is None else found.expand_as(value)
        return {"X": value if level == 2 else value[:, 0]}
    down, up = zeros(rows, rank), zeros(rank, columns)
    with torch.no_grad():
        if own := lora_rank(form):
            down[:, :own], up[:own] = getattr(layer, f"{tensor}d")[:, :own], getattr(layer, f"{tensor}u")[:own]
        elif found is not None:  # the same number in a whole row, or everywhere
            down[:, :1], up[0] = found.expand(rows, 1), 1
    return {"Xd": down, "Xu": up}


def _saved(inner: nn.Module, ours: Mapping[str, nn.Module], reasons: list[str]) -> dict[str, Tensor]:
    """Return what else is trained, by name; peft saves whole modules, and none of ours inside."""
    inside = {id(p) for module in ours.values() for p in module.parameters()}
    trained = {name: p for name, p in inner.named_parameters() if p.requires_grad and id(p) not in inside}
    saved = {}
    for owner in sorted({name.rpartition(".")[0] for name in trained}):
        module = inner.get_submodule(owner)
        alike = [name for name, _ in inner.named_modules() if name.endswith(owner) and name != owner]
        if not owner or alike or any(True for _ in module.children()):
            why = f"peft would take {alike[0]!r} for it" if alike else "it is no module of its own"
            reasons.append(f"{owner or 'the model'} has trained parameters, and {why}")
            continue
        saved |= {f"{owner}.{name}" if owner else name: tensor for name, tensor in module.state_dict().items()}
    return saved


def _layers_of(tensors: Mapping[str, Tensor]) -> set[str]:
    return {re.split(r"\.(?:(?:lora|glora)_[A-E]\.|(?:hada|lokr)_)", name)[0] for name in tensors}
