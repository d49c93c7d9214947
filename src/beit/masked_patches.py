"""Where the masked patches of a batch are, worked out once, on the host.

How many rows a selection by a mask has is known only once the mask was read. Read from a GPU, that
waits for all the GPU has to do, in every step; so the loop reads it before the mask is moved.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor


class MaskedPatches(NamedTuple):
    """A mask with the numbers that selecting by it takes."""

    mask: Bool[Tensor, "batch patches"]
    """True where a patch is hidden."""
    fewest: int
    """Masked patches of the image with fewest."""
    most: int
    """Masked patches of the image with most."""
    real: Int64[Tensor, " masked"] | None
    """Of `places`, flattened, those that are masked; None: all of them."""

    @classmethod
    def of(cls, mask: Bool[Tensor, "batch patches"]) -> MaskedPatches:
        """Read a mask. One that lies on a GPU is waited for."""
        counts = mask.sum(dim=1)
        fewest, most = torch.stack(counts.aminmax()).tolist()
        if fewest == most:
            return cls(mask, fewest, most, None)
        columns = torch.arange(most, device=mask.device)
        return cls(mask, fewest, most, (columns < counts[:, None]).flatten().nonzero().flatten())

    def to(self, device: torch.device) -> MaskedPatches:
        """The same on a device, which is not waited for."""
        waits = device.type == "mps"  # which may read memory that has been let go of
        real = None if self.real is None else self.real.to(device, non_blocking=not waits)
        return self._replace(mask=self.mask.to(device, non_blocking=not waits), real=real)

    @property
    def places(self) -> Int64[Tensor, "batch most"]:
        """The masked patches of each image in their order; an image with fewer than `most` is
        filled up with visible ones."""
        return (~self.mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.most]

    def rows(self, at_places: Shaped[Tensor, "batch most *values"]) -> Shaped[Tensor, "masked ..."]:
        """Of what was computed at `places`, the masked patches in row-major order, [M, ...]."""
        flat = at_places.flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)

    def select(
        self, every: Shaped[Tensor, "batch patches *values"]
    ) -> Shaped[Tensor, "masked ..."]:
        """What `every[mask]` gives: the masked patches in row-major order, [M, ...]."""
        places = self.places.reshape(*self.places.shape, *(1,) * (every.ndim - 2))
        return self.rows(every.gather(1, places.expand(-1, -1, *every.shape[2:])))


Mask = Bool[Tensor, "batch patches"] | MaskedPatches
"""A mask, or one that was read before."""


def read_mask(mask: Mask | None) -> MaskedPatches | None:
    """The mask with its numbers, unless it has them."""
    return MaskedPatches.of(mask) if isinstance(mask, Tensor) else mask
