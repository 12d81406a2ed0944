"""GLoRA on a normalisation's scale and shift: A and D scale them, B and E shift them.

    w = w0 + w0 * A + B        b = b0 + b0 * D + E        y = w * normalised(x) + b

w0 and b0 have d entries. As a matrix w0 is (d, 1): a linear layer of one input for each channel. LoRA and C have no place
there, so that A, B, D and E are none, a scalar or a vector: 81 choices. The paper leaves normalisations frozen.
"""

from dataclasses import asdict

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from glora_lib.glora.plain import plain_parameters
from glora_lib.glora.shaped import GLoRAShaped
from glora_lib.glora.space import Choice, forms


class GLoRANorm(GLoRAShaped):
    """A LayerNorm, BatchNorm or GroupNorm with GLoRA's scale and shift; running statistics stay as they are.

    `rank` and `scale_broadcast` change nothing here.
    """

    kind = "norm"
    without_bias = "scale"

    def __init__(self, layer: nn.Module, rank: int = 1, scale_broadcast: bool = False, gain_bias: bool = True):
        super().__init__(layer, layer.weight.numel(), 1, scale_broadcast, gain_bias)
        self.rank = 0
        del self.Au, self.Bu, self.Cd, self.Cu  # no LoRA and no C

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether a module is a normalisation with a scale that is not adapted yet."""
        known = isinstance(module, nn.LayerNorm | nn.GroupNorm | _BatchNorm)
        return known and plain_parameters(module)

    def use(self, choice: Choice) -> "GLoRANorm":
        """Choose the form of A, B, D and E; return the layer. LoRA, and a C other than none, are a ValueError."""
        for tensor, form in asdict(choice).items():
            if form not in (valid := forms(tensor, (), self.kind)):
                raise ValueError(f"unknown choice {form!r} for {tensor} of a normalisation; valid: {', '.join(valid)}")
        self.choice = choice
        return self

    def _form(self, tensor: str, form: str) -> Tensor | None:
        if form == "none" or tensor in "DE":
            return super()._form(tensor, form)
        column = getattr(self, f"{tensor}d")
        return column if form == "vector" else column[:1]
