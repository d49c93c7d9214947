"""Feature tables larger than memory: on disk, read in stretches, standardised as they are read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from beit.errors import ResourceError
from beit.evaluation.features import Moments, moments

STRETCH = 1024
"""Rows that lie beside each other on the disk and are read together."""
MIXED = 64 * STRETCH
"""Rows of a table on disk that are shuffled together: 64 of its stretches, drawn at random."""


def on_disk(shape: tuple[int, ...], folder: Path) -> Tensor:
    """A float32 tensor in an unnamed file in the folder, which vanishes with the process.

    Raises:
        ResourceError: The disk has no room for it.
    """
    size = 4 * int(np.prod(shape))
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))  # else writing to it would be fatal
        except OSError as error:
            raise ResourceError(
                f"a table of features takes {size / 1e9:.1f} GB, which {folder} does not have: "
                f"{error.strerror}",
                remedy="make room, or write to another disk with --out",
            ) from error
        return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=shape))


class Rows:
    """Rows of one table, or of several joined along their width; see `standardised`."""

    def __init__(
        self, *columns: Float[Tensor, "images blocks width"], on_disk: bool = False
    ) -> None:
        self._columns, self.on_disk = columns, on_disk
        self._scale: Moments | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, blocks, width."""
        images, blocks, _ = self._columns[0].shape
        return images, blocks, sum(column.shape[2] for column in self._columns)

    def __getitem__(
        self, rows: Int64[Tensor, " rows"] | slice
    ) -> Float[Tensor, "rows blocks width"]:
        found = torch.cat([column[rows] for column in self._columns], dim=2)
        if self._scale is None:
            return found
        mean, deviation = self._scale
        return (found - mean) / deviation

    def split(self, size: int) -> Iterator[Float[Tensor, "rows blocks width"]]:
        """All rows in their order, `size` at a time."""
        for start in range(0, self.shape[0], size):
            yield self[start : start + size]

    def standardised(self, reference: Rows) -> Rows:
        """The same rows minus the reference's mean, in units of its standard deviation."""
        rows = Rows(*self._columns, on_disk=self.on_disk)
        columns = [moments(column) for column in reference._columns]
        rows._scale = Moments(*(torch.cat(parts, dim=1) for parts in zip(*columns, strict=True)))
        return rows

    def shuffled(self, chance: torch.Generator, batch: int) -> Iterator[Int64[Tensor, " rows"]]:
        """The indices of all rows, shuffled, `batch` at a time.

        A large table on disk is shuffled so that few of its stretches are read at a time.
        """
        images = self.shape[0]
        if not self.on_disk or images <= MIXED:
            yield from torch.randperm(images, generator=chance).split(batch)
            return
        stretches = torch.randperm(-(-images // STRETCH), generator=chance)
        for some in stretches.split(MIXED // STRETCH):
            rows = (some[:, None] * STRETCH + torch.arange(STRETCH)).flatten()
            rows = rows[rows < images]
            yield from rows[torch.randperm(len(rows), generator=chance)].split(batch)
