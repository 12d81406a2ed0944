"""Adapters of LyCORIS, read as the exact dense change that each comes to.

Its GLoRA is another layer than the paper's: W0 + scale (W0 A1 A2 + B1 B2), where A is a product of matrices behind W0 and not
an elementwise factor, the scale is alpha / r, and the bias stays. It is no point of this library's space.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

from glora_lib.glora.plain import refuse_adapted
from glora_lib.methods.dense import DenseChange
from glora_lib.methods.exchange import ExchangeError, loha, lokr


def from_lycoris(path: str | Path, model: nn.Module) -> nn.Module:
    """Return a copy of a plain model with the changes of a LyCORIS file: its GLoRA, LoRA (LoCon), LoHa, LoKr or full changes.

    Names are LyCORIS's, the layer's with underscores behind a prefix (`lycoris_blocks_0_attn_qkv.a1.weight`), or the layer's
    own. What was trained is the head neither there nor here. Raises ExchangeError for what fits no layer and for what is of
    another kind.
    """
    refuse_adapted(model)
    try:
        tensors = load_file(path)
    except Exception as error:
        raise ExchangeError(f"{path} cannot be read", [" ".join(str(error).split())[:200]]) from error
    if broken := [f"{name} has NaN or infinity" for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ExchangeError(f"{path} is a broken adapter", broken)
    model = copy.deepcopy(model).requires_grad_(False)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    spelled = {name.replace(".", "_"): name for name in layers}
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, part = re.fullmatch(r"(.+?)\.((?:\w+\.weight)|\w+)", key).groups() if "." in key else (key, "")
        groups.setdefault(module, {})[part] = tensor
    made, reasons = {}, []
    for module, parts in groups.items():
        name = module if module in layers else spelled.get(re.sub(r"^(lycoris|lora|lora_unet|lora_te\d?)_", "", module))
        if name is None:
            reasons.append(f"{module} is no linear layer or convolution of this model")
            continue
        try:
            made[name] = DenseChange(layers[name], _change(layers[name].weight.detach(), parts), parts.get("diff_b"))
        except (KeyError, RuntimeError, ValueError) as error:
            reasons.append(f"{module} ({', '.join(sorted(parts))}): {error}")
    if reasons or not made:
        raise ExchangeError(f"{path} cannot be expressed here", reasons or ["it has no tensors"])
    for name, layer in made.items():
        model.set_submodule(name, layer)
    return model.eval()


# the tensors of each kind, told apart by the first of them that a layer has
KINDS = {
    "a1.weight": {"a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"},
    "lora_up.weight": {"lora_up.weight", "lora_down.weight", "alpha"},
    "hada_w1_a": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"},
    "lokr_w1": {"lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "alpha"},
    "lokr_w1_a": {"lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "alpha"},
    "diff": {"diff", "diff_b"},
}


def _change(W0: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
    """Return the change of a weight, its scale included."""
    kind = next((kind for kind in KINDS if kind in parts), None)
    if kind is None or (foreign := set(parts) - KINDS[kind]):
        raise ValueError("this kind is not read here" if kind is None else f"{', '.join(sorted(foreign))} is not read here")
    alpha = float(parts["alpha"]) if "alpha" in parts else None
    if "a1.weight" in parts:
        a1, a2, b1, b2 = (parts[f"{name}.weight"].to(W0).flatten(1) for name in ("a1", "a2", "b1", "b2"))
        scale = 1.0 if not alpha else alpha / len(a2)
        multiplied = (W0.movedim(1, -1) @ (a1 @ a2)).movedim(-1, 1)  # on a kernel, they act on its input channels
        return scale * (multiplied.flatten(1) + b1 @ b2)
    if "lora_up.weight" in parts:
        up, down = parts["lora_up.weight"].to(W0).flatten(1), parts["lora_down.weight"].to(W0).flatten(1)
        return (1.0 if not alpha else alpha / len(down)) * (up @ down)
    if "hada_w1_a" in parts:
        return (1.0 if not alpha else alpha / len(parts["hada_w1_b"])) * loha(parts).to(W0)
    if "lokr_w1" in parts or "lokr_w1_a" in parts:
        low = next((parts[key] for key in ("lokr_w1_b", "lokr_w2_b") if key in parts), None)
        return (1.0 if low is None or not alpha else alpha / len(low)) * lokr(parts).to(W0)
    return parts["diff"].to(W0)
