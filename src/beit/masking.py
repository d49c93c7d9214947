"""Samplers of masks: a grid and a generator in, bool [N] out.

Section 2.3 and Algorithm 1 of the paper. The published code draws the aspect log-uniformly, and
stops early when ten attempts fail, so that only two images in three reach the requested number;
here that sampler has a name of its own, and the default always reaches it (static shapes).
"""

from __future__ import annotations

import abc
import math
import random
from functools import singledispatch

import numpy as np

from beit.config.masking import (
    BlockMasking,
    FixedMasking,
    MaskingConfig,
    PublishedBlockMasking,
    RatioMasking,
    UniformMasking,
)
from beit.errors import ConfigError

ATTEMPTS = 10


class MaskSampler(abc.ABC):
    """Draws which of the N = h * w patches are hidden (true)."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self.grid = grid

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """Hidden patches M per mask; for the published sampler an upper bound."""

    @abc.abstractmethod
    def __call__(self, generator: random.Random) -> np.ndarray:
        """A mask, bool [N] in row-major order."""


@singledispatch
def build_sampler(config: MaskingConfig, grid: tuple[int, int]) -> MaskSampler:
    """The sampler of a masking scheme on a grid of h x w patches.

    A scheme of your own is registered like those at the end of this file.

    Raises:
        ConfigError: No sampler is registered for the type of `config`.
    """
    raise ConfigError(
        f"no sampler is registered for {type(config).__name__} ({grid[0]} x {grid[1]} patches)",
        remedy="register it: build_sampler.register(YourMasking, YourMasks)",
    )


class PublishedBlockMasks(MaskSampler):
    """Blocks as in the published code: at most `count` patches."""

    def __init__(self, config: BlockMasking, grid: tuple[int, int]) -> None:
        super().__init__(grid)
        self._count = config.count(grid)
        self._minimum = config.block_minimum(grid)
        self._log_aspect = math.log(config.largest_aspect)

    @property
    def count(self) -> int:
        return self._count

    def _draw(self, generator: random.Random) -> list[int]:
        """The mask as one integer of w bits per row, which makes counting overlaps cheap."""
        height, width = self.grid
        rows = [0] * height
        missing = self._count
        while missing > 0:
            for _ in range(ATTEMPTS):
                # With fewer patches missing than the smallest block, the bounds swap places.
                area = generator.uniform(self._minimum, missing)
                aspect = math.exp(generator.uniform(-self._log_aspect, self._log_aspect))
                block_height = round(math.sqrt(area * aspect))
                block_width = round(math.sqrt(area / aspect))
                if not (0 < block_height < height and 0 < block_width < width):
                    continue
                top = int(generator.random() * (height - block_height + 1))
                left = int(generator.random() * (width - block_width + 1))
                bits = ((1 << block_width) - 1) << left
                block = range(top, top + block_height)
                new = sum((bits & ~rows[row]).bit_count() for row in block)
                if 0 < new <= missing:
                    for row in block:
                        rows[row] |= bits
                    missing -= new
                    break
            else:
                break
        return rows

    def _unpack(self, rows: list[int]) -> np.ndarray:
        width = self.grid[1]
        row_bytes = (width + 7) // 8
        packed = b"".join(row.to_bytes(row_bytes, "little") for row in rows)
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
        mask: np.ndarray = bits.reshape(len(rows), row_bytes * 8)[:, :width].astype(bool)
        return mask.reshape(-1)

    def __call__(self, generator: random.Random) -> np.ndarray:
        return self._unpack(self._draw(generator))


class BlockMasks(PublishedBlockMasks):
    """Blocks, then single patches drawn uniformly until the count is reached exactly."""

    def __call__(self, generator: random.Random) -> np.ndarray:
        mask = super().__call__(generator)
        missing = self._count - int(np.count_nonzero(mask))
        if missing:
            mask[generator.sample(np.flatnonzero(~mask).tolist(), missing)] = True
        return mask


class UniformMasks(MaskSampler):
    """Exactly `count` patches, each equally likely."""

    def __init__(self, config: RatioMasking, grid: tuple[int, int]) -> None:
        super().__init__(grid)
        self._count = config.count(grid)

    @property
    def count(self) -> int:
        return self._count

    def __call__(self, generator: random.Random) -> np.ndarray:
        patches = self.grid[0] * self.grid[1]
        mask = np.zeros(patches, dtype=bool)
        mask[generator.sample(range(patches), self._count)] = True
        return mask


class FixedMasks(MaskSampler):
    """The same patches every time."""

    def __init__(self, config: FixedMasking, grid: tuple[int, int]) -> None:
        super().__init__(grid)
        patches = grid[0] * grid[1]
        outside = [patch for patch in config.hidden_patches if not 0 <= patch < patches]
        if outside:
            raise ConfigError(
                f"hidden_patches {outside} lie outside the {grid[0]} x {grid[1]} grid",
                remedy=f"use indices from 0 to {patches - 1}",
            )
        self._mask = np.zeros(patches, dtype=bool)
        self._mask[list(config.hidden_patches)] = True

    @property
    def count(self) -> int:
        return int(np.count_nonzero(self._mask))

    def __call__(self, generator: random.Random) -> np.ndarray:
        return self._mask.copy()


build_sampler.register(PublishedBlockMasking, PublishedBlockMasks)
build_sampler.register(BlockMasking, BlockMasks)
build_sampler.register(UniformMasking, UniformMasks)
build_sampler.register(FixedMasking, FixedMasks)
