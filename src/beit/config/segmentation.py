"""The heads of semantic segmentation and their options."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Annotated

from beit.config.validation import Config, Fraction, NonNegativeInt, Range, Side, Width, require
from beit.terminal import shown

LEVELS = 4  # of the feature pyramid


def check_pyramid(grid: tuple[int, int]) -> None:
    """Raise ConfigError if there are too few patches for a level at half the resolution."""
    require(
        min(grid) >= 2,
        f"an image of {grid[0]} x {grid[1]} patches has no pyramid",
        "use images of at least two patches in height and in width",
    )


def check_statistics(values: int) -> None:
    """Raise ConfigError if batch norm would see a single value per channel in training."""
    require(
        values > 1,
        "this head cannot train on one image at a time: pooled to a single cell it leaves batch "
        "norm one value per channel",
        "use a micro-batch of at least 2, or the linear head",
    )


@dataclass(frozen=True, kw_only=True)
class SegmentationHeadConfig(Config, abc.ABC):
    """A head that turns outputs of blocks into a class for each pixel.

    `beit.models.segmenter.build_head` makes it.
    """

    dropout: Fraction = 0.0
    """Fraction of the channels dropped before the last convolution, in training."""

    def blocks(self, depth: int) -> tuple[int, ...]:
        """The blocks (0 is the first) whose raw outputs the head reads, for a backbone of `depth`.

        Raises:
            ConfigError: The backbone does not have such a block.
        """
        blocks = self._blocks(depth)
        require(
            all(0 <= block < depth for block in blocks),
            f"the head reads blocks {blocks} of a backbone with {depth}",
            f"blocks are counted from 0 to {depth - 1}; leave them out to take the usual ones",
        )
        return blocks

    @abc.abstractmethod
    def _blocks(self, depth: int) -> tuple[int, ...]: ...

    @abc.abstractmethod
    def normed_cells(self, grid: tuple[int, int]) -> int | None:
        """Cells of the smallest feature map that goes through batch norm; None without batch norm.

        Raises:
            ConfigError: The crop has too few patches for the head.
        """


@dataclass(frozen=True, kw_only=True)
class UperNetConfig(SegmentationHeadConfig):
    """UperNet with an auxiliary head: the published ADE20K models (unilm, `upernet_beit.py`)."""

    out_indices: tuple[NonNegativeInt, ...] | None = None
    """Blocks that the four levels read; None: at a third, half, two thirds and the end of the
    depth, as published: 3, 5, 7, 11 of 12 and 7, 11, 15, 23 of 24."""
    head_channels: Width | None = None
    """Channels of the head; None: the width of the backbone, as published."""
    pools: tuple[Side, ...] = (1, 2, 3, 6)
    """Cells per side of each pooling of the deepest level."""
    dropout: Fraction = 0.1
    """Fraction of the channels dropped before the last convolution of both heads, in training."""
    auxiliary: bool = True
    """Add a small second head, used only in training."""
    auxiliary_channels: Width = 256
    """Channels of the auxiliary head."""
    auxiliary_level: Annotated[int, Range(0, LEVELS - 1)] = 2
    """Level that the auxiliary head reads, 0 to 3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.out_indices is None or len(self.out_indices) == LEVELS,
            f"out_indices {shown(self.out_indices)} are not {LEVELS} blocks",
            f"name one block for each of the {LEVELS} levels, or None for the published ones",
        )
        require(
            len(self.pools) > 0,
            f"pools is {self.pools}",
            "give the cells per side of each pooling, e.g. (1, 2, 3, 6)",
        )

    def _blocks(self, depth: int) -> tuple[int, ...]:
        if self.out_indices is not None:
            return self.out_indices
        return tuple(
            max(blocks, 1) - 1 for blocks in (depth // 3, depth // 2, 2 * depth // 3, depth)
        )

    def normed_cells(self, grid: tuple[int, int]) -> int:
        check_pyramid(grid)
        deepest = (grid[0] // 2) * (grid[1] // 2)
        return min(min(self.pools) ** 2, deepest)


@dataclass(frozen=True, kw_only=True)
class OneBlockConfig(SegmentationHeadConfig):
    """A head that reads one block."""

    out_index: NonNegativeInt | None = None
    """Block that the head reads, counted from 0; None: the last."""

    def _blocks(self, depth: int) -> tuple[int, ...]:
        return (depth - 1 if self.out_index is None else self.out_index,)


@dataclass(frozen=True, kw_only=True)
class SETRConfig(OneBlockConfig):
    """Progressive upsampling: the head of the paper's main tables (SETR-PUP; table 3)."""

    head_channels: Width = 256
    """Channels of the head (SETR's code)."""

    def normed_cells(self, grid: tuple[int, int]) -> int:
        return grid[0] * grid[1]


@dataclass(frozen=True, kw_only=True)
class LinearHeadConfig(OneBlockConfig):
    """A norm and one linear map from each patch vector to classes: what the features hold."""

    def normed_cells(self, grid: tuple[int, int]) -> None:
        return None
