"""Steps whose gradient is far larger than usual, as a few broken or wrongly labelled images make
it: each can be left out before it undoes what many others have learned."""

from __future__ import annotations

import torch
from torch import Tensor

from beit.training.checkpoint import Tensors

WINDOW = 64


class Spikes:
    """The norms of the last `WINDOW` gradients, and which new one stands out among them.

    Those that stand out are remembered too. So gradients that became larger for good count as usual
    once they are half of the window, and no run is left without updates.
    """

    def __init__(self, factor: float, device: torch.device) -> None:
        self._factor = factor
        self._norms = torch.full((WINDOW,), torch.nan, device=device)

    def stands_out(self, norm: Tensor) -> Tensor:
        """1 for a norm of more than `factor` times the median of those before it, else 0; always 0
        until the window is full. No device is waited for, and all processes find the same."""
        usual = self._norms.median()  # not a number, and above nothing, while one of them is none
        later = torch.cat([self._norms[1:], norm.detach().float().reshape(1)])
        self._norms = torch.where(norm.isfinite(), later, self._norms)
        return (norm > self._factor * usual).float()

    def state(self) -> Tensors:
        """What the next answer depends on."""
        return {"norms": self._norms}

    def load(self, tensors: Tensors) -> None:
        """Take over what `state` returned."""
        self._norms.copy_(tensors["norms"])
