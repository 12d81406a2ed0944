"""LoRA (Hu et al., 2021), W = W0 + scale * up @ down: in every linear layer, in the fused qkv, in queries and values alone,
or in every convolution.

Each is a point of GLoRA's space, where only B is chosen. Initialised as by its authors and as in the code of NOAH and of
PETL-ViT: `down` as Kaiming's, `up` at zero, dropout of 0.1 on the branch's input.
(GLoRA's B starts as Xavier's, without dropout.)
"""

import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glora_lib.glora.fusable import StandIn
from glora_lib.glora.layer import check_whole
from glora_lib.glora.plain import left_out, maps_left_out, plain_parameters, refuse_adapted, refuse_computed, say
from glora_lib.methods.fast_lora import lora_linear
from glora_lib.methods.locon import LoConv2d
from glora_lib.methods.vit import check_rank, freeze, fused_layer, layers, linears, replace
from glora_lib.training.dropout import Dropout
from glora_lib.training.head import head_of

PLACEMENTS = ("all", "qkv", "qv", "conv")


def lora(model: nn.Module, rank: int = 8, placement: str = "all", scale: float = 1.0, dropout: float = 0.1) -> nn.Module:
    """Return the model with LoRA in its linear layers or convolutions; only the factors and the head are trained.

    Args:
        rank: at most the width of each adapted layer's input, else ValueError.
        placement: "all" linear layers but the head's; "qkv", one `down` shared by queries, keys and values, as in the code of
            NOAH, from which the papers take this row; "qv", factors of their own for queries and for values, as in LoRA's
            paper. For rank 8 these two have 294,912 parameters each on ViT-B, but are different models. "conv", every
            convolution, of any rank from 1, without dropout: see `LoConv2d`.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement {placement!r} is not known; valid: {', '.join(PLACEMENTS)}")
    if placement == "conv":
        return _in_convolutions(model, rank, scale)
    refuse_adapted(model)
    found = linears(model) if placement == "all" else layers(model, ("attn.qkv",))
    if not found:
        raise ValueError(
            f"no linear layer to adapt inside this {type(model).__name__} but the head's; "
            "placement='conv' takes its convolutions, and so does GLoRA"
        )
    check_rank(rank, found)
    if placement == "qv" and (odd := [name for name, layer in found.items() if layer.out_features % 3]):
        raise ValueError(
            f"{found[odd[0]].out_features} outputs of {odd[0]!r} are no fused queries, keys and values of equal width"
        )
    left = left_out(model, {id(part) for layer in (*found.values(), *head_of(model).values()) for part in layer.modules()})
    if placement == "all" and (maps := maps_left_out(model, left)):
        warnings.warn(f"left out of {type(model).__name__}, since their class is not adapted: {say(maps)}", stacklevel=2)
    freeze(model)
    replace(model, {id(layer): LoRALinear(layer, rank, scale, dropout, placement == "qv") for layer in found.values()})
    return model


def _in_convolutions(model: nn.Module, rank: int, scale: float) -> nn.Module:
    check_whole(rank, "rank")
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    refuse_computed(found)
    if computed := [name for name, layer in found.items() if not plain_parameters(layer)]:
        raise ValueError(
            f"layer {computed[0]!r} is parametrized: its weight or bias is computed; make it a parameter before "
            "(torch.nn.utils.parametrize.remove_parametrizations)"
        )
    if not found:
        raise ValueError(f"no convolution to adapt inside this {type(model).__name__}")
    freeze(model)
    replace(model, {id(layer): LoConv2d(layer, rank, scale) for layer in found.values()})
    return model


class LoRALinear(StandIn):
    """A linear layer with LoRA; `apart`: a fused qkv, whose queries and values have factors of their own, and keys none.

    Set the attribute `fast` to False to train the plain formula as it stands.
    """

    fast = True

    def __init__(self, linear: nn.Linear, rank: int, scale: float = 1.0, dropout: float = 0.1, apart: bool = False):
        super().__init__(linear)
        weight, (d2, d1) = linear.weight, linear.weight.shape
        if apart and d2 % 3:
            raise ValueError(f"{d2} outputs are no fused queries, keys and values of equal width")
        self.linear, self.scale, self.apart = linear, scale, apart
        pairs, rows = (2, d2 // 3) if apart else (1, d2)
        self.down = nn.Parameter(weight.new_empty(pairs, rank, d1).uniform_(-(d1**-0.5), d1**-0.5))
        self.up = nn.Parameter(weight.new_zeros(pairs, rows, rank))
        self.dropout = Dropout(dropout)
        self.used = rank  # a supernet uses less

    def factors(
        self, up: Float[Tensor, "*runs pairs rows r"] | None = None, down: Float[Tensor, "*runs pairs r d1"] | None = None
    ) -> tuple[Float[Tensor, "*runs d2 all"], Float[Tensor, "*runs all d1"]]:
        """Return `up` and `down`, the layer's or several runs', as matrices; their product is W's change before the scale."""
        up, down = self.up if up is None else up, self.down if down is None else down
        down, up = down[..., : self.used, :].flatten(-3, -2), up[..., : self.used]
        if not self.apart:
            return up.squeeze(-3), down
        q, v = up.unbind(-3)
        none = torch.zeros_like(q)
        return torch.cat([torch.cat(pair, dim=-1) for pair in ((q, none), (none, none), (none, v))], dim=-2), down

    def forward(self, input: Float[Tensor, "*batch d1"]) -> Float[Tensor, "*batch d2"]:
        self._felt()
        if not self.used:
            return self.linear(input)
        up, down = self.factors()
        if not (self.fast and torch.is_grad_enabled()):
            if up.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):  # long factors, short weights
                up, down = up.to(input.dtype), down.to(input.dtype)
            return self.linear(input) + self.scale * F.linear(F.linear(self.dropout(input), down), up)
        return self._fast(input, up, down)

    def for_runs(self, tensors: Mapping[str, Tensor], x: Float[Tensor, "runs *batch d1"]) -> Float[Tensor, "runs *batch d2"]:
        """Return what the layer makes of a batch of each of several runs, with their factors; see `training.stacked`."""
        return self._fast(x, *self.factors(tensors["up"], tensors["down"])) if self.used else self.linear(x)

    def _fast(self, input: Tensor, up: Tensor, down: Tensor) -> Tensor:
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.linear.weight.dtype
        with torch.autocast(device, enabled=False):  # every part is cast here
            parts = (input, self.linear.weight, self.linear.bias, self.scale * up, down)
            x, *rest = (None if part is None else part.to(dtype) for part in parts)
            with torch.no_grad():
                dropped = self.dropout.dropped(x)
            return lora_linear(x, *rest, *dropped)

    def effective(self) -> tuple[Float[Tensor, "d2 d1"], Float[Tensor, " d2"] | None]:
        """Return the changed weight, and the bias as it was."""
        up, down = self.factors()
        weight = self.linear.weight
        return weight + (self.scale * up @ down).to(weight.dtype), self.linear.bias

    def fuse(self) -> nn.Module:
        """Return a plain linear layer with the same function."""
        return fused_layer(self, self.linear)
