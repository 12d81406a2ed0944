"""What training a language model needs beside the loop: the loss on labelled tokens, its gradients, and its mean over data.

Knows torch and causal language models of transformers, also inside a wrapper that has one as its attribute `model`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.data import Dataset

from glora_lib.training.loop import autocast


def loss(model: nn.Module, tokens: Int64[Tensor, "batch T"], labels: Int64[Tensor, "batch T"]) -> Float[Tensor, " n"]:
    """Return the cross-entropy of every labelled token (a label of -100 is none), each predicted from those before it.

    Padding on the right changes nothing. The output layer, a fifth of a small model, is computed for these tokens alone.
    """
    causal = model if hasattr(model, "get_output_embeddings") else model.model
    asked = labels[:, 1:] != -100
    hidden = causal.get_decoder()(tokens, use_cache=False).last_hidden_state[:, :-1][asked]
    return F.cross_entropy(causal.get_output_embeddings()(hidden).float(), labels[:, 1:][asked], reduction="none")


def backward(model: nn.Module, tokens: Tensor, labels: Tensor, dtype: str = "float32") -> float:
    """Add the gradients of the mean loss of a batch's labelled tokens to the parameters'; return the loss. For `train`."""
    with autocast(dtype, tokens.device):
        mean = loss(model, tokens, labels).mean()
    mean.backward()
    return mean.item()


@torch.no_grad()
def mean_loss(model: nn.Module, data: Dataset, *, batch_size: int = 8, dtype: str = "float32") -> float:
    """Return the mean cross-entropy of all labelled tokens of `data`, in nats a token, in evaluation mode."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(data), batch_size):
        tokens, labels = data[list(range(start, min(start + batch_size, len(data))))]
        with autocast(dtype, device):
            parts.append(loss(model, tokens.to(device), labels.to(device)).double().cpu())
    model.train(was_training)
    return float(torch.cat(parts).mean())
