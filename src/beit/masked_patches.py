"""Where the masked patches of a batch are, computed once, on the host.

How many rows a mask selects is known only once the mask has been read. Reading it from a GPU would
wait in every step for everything the GPU has to do, so the loop reads it before it is moved there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor


class MaskedPatches(NamedTuple):
    """A mask with the numbers that are needed to select by it."""

    mask: Bool[Tensor, "batch patches"]
    """True where a patch is hidden."""
    fewest: int
    """Number of masked patches in the image with the fewest."""
    most: int
    """Number of masked patches in the image with the most."""
    real: Int64[Tensor, " masked"] | None
    """Which of the flattened `places` are masked; None if all of them are."""

    @classmethod
    def of(cls, mask: Bool[Tensor, "batch patches"]) -> MaskedPatches:
        """Read a mask; if it lies on a GPU, this waits for the GPU."""
        counts = mask.sum(dim=1)
        fewest, most = torch.stack(counts.aminmax()).tolist()
        if fewest == most:
            return cls(mask, fewest, most, None)
        columns = torch.arange(most, device=mask.device)
        return cls(mask, fewest, most, (columns < counts[:, None]).flatten().nonzero().flatten())

    def to(self, device: torch.device) -> MaskedPatches:
        """The same on a device, without waiting for the device."""
        waits = device.type == "mps"  # which may read memory that was freed meanwhile
        real = None if self.real is None else self.real.to(device, non_blocking=not waits)
        return self._replace(mask=self.mask.to(device, non_blocking=not waits), real=real)

    @property
    def places(self) -> Int64[Tensor, "batch most"]:
        """Indices of the masked patches of each image, in order; an image with fewer than `most` is
        padded with visible ones."""
        return (~self.mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.most]

    def rows(self, at_places: Shaped[Tensor, "batch most *values"]) -> Shaped[Tensor, "masked ..."]:
        """The masked patches, [M, ...] in row-major order, of what was computed at `places`."""
        flat = at_places.flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)

    def select(
        self, every: Shaped[Tensor, "batch patches *values"]
    ) -> Shaped[Tensor, "masked ..."]:
        """What `every[mask]` gives: the masked patches in row-major order, [M, ...]."""
        places = self.places.reshape(*self.places.shape, *(1,) * (every.ndim - 2))
        return self.rows(every.gather(1, places.expand(-1, -1, *every.shape[2:])))


Mask = Bool[Tensor, "batch patches"] | MaskedPatches
"""A mask, whether it has been read already or not."""


def read_mask(mask: Mask | None) -> MaskedPatches | None:
    """The mask with its numbers; they are computed only if it does not have them yet."""
    return MaskedPatches.of(mask) if isinstance(mask, Tensor) else mask
