"""LoRA on a convolution, W = W0 + scale * up @ down on the unfolded kernel, which LyCORIS calls LoCon.

`down` (r, inputs / groups * height * width) is a convolution of the same size with r outputs, `up` (outputs, r) one of 1 x 1.
In a convolution with groups all of them share `down`. Initialised as LoRA: `down` as Kaiming's, `up` at zero; without dropout.
It is the point of GLoRA's space on a convolution where only B is chosen.
"""

from torch import Tensor, nn
from torch.func import functional_call

from glora_lib.glora.fusable import StandIn
from glora_lib.methods.vit import fused_layer


class LoConv2d(StandIn):
    """A convolution with LoRA: any kernel, stride, padding and groups, and classes that pad otherwise."""

    def __init__(self, conv: nn.Conv2d, rank: int, scale: float = 1.0):
        super().__init__(conv)
        weight, d1 = conv.weight, conv.weight[0].numel()
        self.conv, self.scale = conv, scale
        self.down = nn.Parameter(weight.new_empty(rank, d1).uniform_(-(d1**-0.5), d1**-0.5))
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Return the changed kernel, and the bias as it was."""
        return self.conv.weight + self.scale * (self.up @ self.down).view_as(self.conv.weight), self.conv.bias

    def forward(self, input: Tensor) -> Tensor:
        self._felt()
        return functional_call(self.conv, {"weight": self.effective()[0]}, (input,))

    def fuse(self) -> nn.Module:
        """Return a plain convolution with the same function."""
        return fused_layer(self, self.conv)
