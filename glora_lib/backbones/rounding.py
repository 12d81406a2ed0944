"""What a file of 4 bits a weight (GGUF's Q4_1) has lost, done once more: the same error on weights that have it already."""

import torch
from torch import nn

BLOCK, LEVELS = 32, 16  # weights that share a scale, and the values that each may have


@torch.no_grad()
def rounded_again(model: nn.Module, seed: int = 0) -> nn.Module:
    """Add to every linear layer's weight, the output layer's aside, the error of rounding to 4 bits; return the model.

    A block of 32 weights has 16 values at equal distances from its smallest to its largest. What rounding to them has lost lies
    between plus and minus half a distance; as much is drawn again, uniformly. The original weights are not at hand: where
    errors are small and independent, what the second one costs is what the first one has cost.
    """
    generator = torch.Generator().manual_seed(seed)
    output = model.get_output_embeddings()
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer is not output:
            blocks = layer.weight.view(-1, BLOCK)
            distance = (blocks.amax(1, keepdim=True) - blocks.amin(1, keepdim=True)) / (LEVELS - 1)
            blocks += distance * (torch.rand(blocks.shape, generator=generator).to(blocks) - 0.5)
    return model
