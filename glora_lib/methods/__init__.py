"""The methods that are compared: name -> function that adapts a model in place and returns what is trained.

Every function freezes the backbone, leaves its own parameters and the head trainable, and returns a module that is called like
the model, so that a notebook changes one word to change the method. `fuse` makes a plain model of it, or raises `NotFusable`.
"""

from torch import nn

from glora_lib.glora.fusable import NotFusable
from glora_lib.methods.adapters import adapter, adaptformer
from glora_lib.methods.fact import fact_tk, fact_tt
from glora_lib.methods.glora import glora
from glora_lib.methods.lora import lora
from glora_lib.methods.noah import noah
from glora_lib.methods.probes import bitfit, full, linear
from glora_lib.methods.prompts import vpt_deep, vpt_shallow
from glora_lib.methods.repadapter import repadapter
from glora_lib.methods.ssf import ssf
from glora_lib.methods.superlora import SUPERLORA
from glora_lib.training.head import head_parameters


class _Methods(dict):
    """Methods by name; an unknown one is a KeyError that lists them."""

    def __missing__(self, name: str):
        raise KeyError(f"no method {name!r}; valid: {', '.join(self)}")


METHODS = _Methods(
    {
        "linear": linear,
        "full": full,
        "bitfit": bitfit,
        "lora": lora,
        "vpt_shallow": vpt_shallow,
        "vpt_deep": vpt_deep,
        "adapter": adapter,
        "adaptformer": adaptformer,
        "noah": noah,
        "fact_tt": fact_tt,
        "fact_tk": fact_tk,
        "ssf": ssf,
        "repadapter": repadapter,
        "glora": glora,
        **SUPERLORA,
    }
)


def trainable_parameters(model: nn.Module) -> int:
    """Return how many parameters are trained, the head excluded; shared ones count once."""
    head = head_parameters(model)
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and name not in head)
