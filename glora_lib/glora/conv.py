"""GLoRA on a convolution: Eq. 10 on the unfolded kernel, the matrix that a convolution applies to every patch of its input.

    W = W0 + W0 * A + B        b = b0 + b0 * D + E + W0 @ C        y = convolution of x with W, plus b

The kernel (d2, inputs / groups, height, width) is W0 (d2, d1) with d1 = inputs / groups * height * width. A scales it
elementwise, B changes it by a matrix of low rank, C (d1, 1) is one patch, shown to every group, and D and E act on the bias.
The paper has no convolutions; on a kernel of 1 x 1 this is its linear layer at every pixel.
"""

from torch import nn

from glora_lib.glora.plain import plain_parameters
from glora_lib.glora.shaped import GLoRAShaped


class GLoRAConv2d(GLoRAShaped):
    """A convolution whose kernel and bias are GLoRA's: any kernel, stride, padding and number of groups, depthwise included."""

    kind = "conv"

    def __init__(self, conv: nn.Conv2d, rank: int = 8, scale_broadcast: bool = False, gain_bias: bool = True):
        super().__init__(conv, conv.out_channels, rank, scale_broadcast, gain_bias)

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether a module is a convolution of this kind that is not adapted yet."""
        return isinstance(module, nn.Conv2d) and plain_parameters(module)
