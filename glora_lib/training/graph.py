"""A function of tensors as one CUDA graph: its thousands of small kernels are launched as one. Elsewhere it is just called."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # plain calls before a graph is captured: they load kernels and allocate what the function keeps


class Pool:
    """Memory that graphs share, of which one runs at a time; it lasts as long as this does, where torch gives it up sooner."""

    def __init__(self, device: torch.device):
        self.handle, self.graph = torch.cuda.graph_pool_handle(), torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(self.graph, pool=self.handle):
            torch.zeros(1, device=device)


class Graphed:
    """`function`, called with tensors whose shapes come again and again, returning tensors (or None).

    On a GPU, the first calls with tensors of new shapes run as they are; then the call is captured, and from there on replayed.
    So the function must do the same with the same shapes: no branch on a value, nothing moved to the processor. What it changes
    in place (parameters, the optimiser's state, generators) changes in every call, replayed or not. The result is overwritten
    by the next call.
    """

    def __init__(self, function: Callable[..., Tensor | None], device: torch.device):
        self.function, self.device = function, device
        self.calls: dict[tuple, int] = {}
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor | None]] = {}
        self.pool: Pool | None = None  # of all graphs here, and of another that is given the same
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, *tensors: Tensor) -> Tensor | None:
        if self.device.type != "cuda":
            return self.function(*tensors)
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        if key in self.graphs:
            graph, inputs, result = self.graphs[key]
            for place, tensor in zip(inputs, tensors, strict=True):
                place.copy_(tensor, non_blocking=True)
            graph.replay()
            return result
        if self.calls.get(key, 0) < WARM_UP:
            self.calls[key] = self.calls.get(key, 0) + 1
            return self._aside(*tensors)
        self._capture(key, tensors)
        return self(*tensors)

    def _aside(self, *tensors: Tensor) -> Tensor | None:
        """Run plainly on another stream, as a call must that is captured later."""
        main = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            result = self.function(*tensors)
        main.wait_stream(self.stream)
        return result

    def _capture(self, key: tuple, tensors: tuple[Tensor, ...]) -> None:
        """Record the call's kernels without running them."""
        inputs = [tensor.clone() for tensor in tensors]
        self.pool = self.pool or Pool(self.device)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        with torch.cuda.device(self.device), torch.cuda.graph(graph, pool=self.pool.handle):
            result = self.function(*inputs)
        self.graphs[key] = graph, inputs, result
