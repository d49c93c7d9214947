"""Which patches are hidden: the schemes, as configs."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Annotated

from beit.config.validation import (
    Config,
    Fraction,
    NonNegativeInt,
    PositiveInt,
    Range,
    require,
)
from beit.errors import ConfigError
from beit.terminal import shown


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(Config, abc.ABC):
    """A masking scheme; `beit.masking.build_sampler` makes its sampler."""

    @abc.abstractmethod
    def count(self, grid: tuple[int, int]) -> int:
        """Number of hidden patches M on this grid; of the published sampler the most it can be."""


@dataclass(frozen=True, kw_only=True)
class RatioMasking(MaskingConfig):
    """A scheme that hides a given fraction of the patches."""

    mask_ratio: Fraction = 75 / 196
    """Fraction of the patches to hide; the published value is 75 of 196."""

    def count(self, grid: tuple[int, int]) -> int:
        """At least one, unless the ratio is 0."""
        patches = grid[0] * grid[1]
        if self.mask_ratio == 0:
            return 0
        count = round(self.mask_ratio * patches)
        if not 1 <= count <= patches:
            raise ConfigError(
                f"mask_ratio {self.mask_ratio:g} hides {count} of {patches} patches",
                remedy=f"use a ratio of at least {1 / patches:.3f}",
            )
        return count


@dataclass(frozen=True, kw_only=True)
class BlockMasking(RatioMasking):
    """Blocks until the count is reached, topped up to it exactly (Algorithm 1; log-uniform)."""

    smallest_block: PositiveInt = 16
    """Fewest patches in a block, on a 14 x 14 grid; scaled with the area of the grid."""
    largest_aspect: Annotated[float, Range(1, math.inf)] = 1 / 0.3
    """Longest side over shortest side of a block."""

    def block_minimum(self, grid: tuple[int, int]) -> int:
        """Fewest patches in a block on this grid."""
        return max(1, math.ceil(self.smallest_block * grid[0] * grid[1] / 196))


@dataclass(frozen=True, kw_only=True)
class PublishedBlockMasking(BlockMasking):
    """The sampler of the published code: gives up after ten misses, hides *at most* the count."""


@dataclass(frozen=True, kw_only=True)
class UniformMasking(RatioMasking):
    """Each patch equally likely (the ablation of table 4)."""


@dataclass(frozen=True, kw_only=True)
class FixedMasking(MaskingConfig):
    """The same patches in every image, by row-major index; for tests and images."""

    hidden_patches: tuple[NonNegativeInt, ...] = (0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(set(self.hidden_patches)) == len(self.hidden_patches),
            f"hidden_patches {shown(self.hidden_patches)} names a patch twice",
            "name each patch once",
        )

    def count(self, grid: tuple[int, int]) -> int:
        return len(self.hidden_patches)
