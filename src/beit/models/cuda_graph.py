"""A forward pass as a CUDA graph: its kernels are launched at once, which is what small batches
wait for otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MOST_GRAPHS = 16
"""Shapes of input that are recorded; each keeps the memory of one pass."""
WARM_UPS = 3
"""Passes before the recording, in which kernels are chosen and compiled."""


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    images: Tensor
    answer: Tensor


class Replay:
    """A function of one batch of images, recorded once for each shape and type, then replayed.

    The function must give a tensor, do the same whatever the numbers are, and not wait for the GPU.
    Images on another device, and shapes beyond the sixteenth, are passed on to it as they are.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self._recorded: dict[tuple[torch.Size, torch.dtype], _Recorded] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        key = images.shape, images.dtype
        if images.device.type != "cuda" or (
            key not in self._recorded and len(self._recorded) >= MOST_GRAPHS
        ):
            return self.function(images)
        if key not in self._recorded:
            self._recorded[key] = self._record(images)
        graph, place, answer = self._recorded[key]
        place.copy_(images)
        graph.replay()
        return answer.clone()  # the next replay writes into the same memory

    def _record(self, images: Tensor) -> _Recorded:
        place = images.clone()
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(stream):  # a recording may not be the first use of a library
            for _ in range(WARM_UPS):
                self.function(place)
        torch.cuda.current_stream(images.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = self.function(place)
        return _Recorded(graph, place, answer)
