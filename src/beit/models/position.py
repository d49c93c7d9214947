"""Positions: the relative bias with its index and table, absolute vectors, and their resizing.

This is the one place where a position table changes its grid. The published procedure (unilm,
`run_class_finetuning.py`) stretches far offsets more than near ones: old offsets are laid out as a
geometric sequence over the new range and a cubic spline reads the new integer offsets. It is square
only and shrinks by cropping. Here both axes are resized on their own, which is the same thing for
squares, and shrinking is the mirror image of growing.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

Grid = tuple[int, int]
CLASS_ROWS = 3  # the class token to patches, patches to the class token, and to itself


def table_length(grid: Grid) -> int:
    """Rows L of a relative position table: (2h-1)(2w-1) offsets and three for the class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + CLASS_ROWS


@functools.lru_cache(maxsize=64)
def relative_position_index(grid: Grid) -> Int64[Tensor, "tokens tokens"]:
    """Row of the table for each (query, key) pair, int64 [1+N, 1+N]; token 0 is the class token.

    Query patch (r1, c1) and key patch (r2, c2) read row (r1-r2+h-1)(2w-1) + (c1-c2+w-1); the class
    token as query reads L-3, as key L-2, with itself L-1.
    """
    height, width = grid
    length = table_length(grid)
    with torch.device("cpu"), torch.inference_mode(False):  # as the cache outlives the caller's
        rows = torch.arange(height).repeat_interleave(width)
        columns = torch.arange(width).repeat(height)
        row_offset = rows[:, None] - rows[None, :] + height - 1
        column_offset = columns[:, None] - columns[None, :] + width - 1
        index = torch.empty(1 + height * width, 1 + height * width, dtype=torch.int64)
        index[1:, 1:] = row_offset * (2 * width - 1) + column_offset
        index[0, :] = length - 3
        index[:, 0] = length - 2
        index[0, 0] = length - 1
    return index


def sine_positions(grid: Grid, width: int) -> Float[Tensor, "patches width"]:
    """Sines and cosines of row and column, one quarter of the width each (MAE, arXiv:2111.06377,
    A.1): patches know from the start who their neighbours are. What four does not divide is 0."""
    waves = width // 4
    with torch.device("cpu"):  # on the meta device torch would first load its compiler, for seconds
        rates = 10_000 ** -(torch.arange(waves, dtype=torch.float64) / waves)
        rows, columns = (torch.arange(side, dtype=torch.float64)[:, None] * rates for side in grid)
        parts = torch.cat([
            rows.sin().repeat_interleave(grid[1], 0), rows.cos().repeat_interleave(grid[1], 0),
            columns.sin().repeat(grid[0], 1), columns.cos().repeat(grid[0], 1),
        ], dim=1)  # fmt: skip
    return F.pad(parts, (0, width - parts.shape[1])).float()


class RelativePositionBias(nn.Module):
    """A learned bias per head and relative offset, added to the attention scores."""

    index: Tensor

    def __init__(self, *, grid: Grid, heads: int) -> None:
        super().__init__()
        self.grid = grid
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_length(grid), heads))
        self.register_buffer("index", relative_position_index(grid).clone(), persistent=False)

    def forward(self, grid: Grid) -> Float[Tensor, "heads tokens tokens"]:
        """The bias for images of `grid` patches; another grid than the table's resizes it."""
        table: Tensor = self.relative_position_bias_table
        index = self.index
        if grid != self.grid:
            table = resize_relative_table(table, self.grid, grid)
            index = relative_position_index(grid).to(table.device)
        tokens = index.shape[0]
        # Gathering columns of the transposed table is several times faster than indexing rows and
        # permuting, forward and backward.
        return table.t().index_select(1, index.reshape(-1)).reshape(-1, tokens, tokens)


def resize_relative_table(
    table: Float[Tensor, "rows heads"], old: Grid, new: Grid
) -> Float[Tensor, "new_rows heads"]:
    """The table for another grid: a spline per axis; the three class rows stay as they are.

    Args:
        table: One row per offset, as `relative_position_index` orders them.
        old: Grid of the table.
        new: Grid of the result.
    """
    if old == new:
        return table
    offsets = table[:-CLASS_ROWS].float().reshape(2 * old[0] - 1, 2 * old[1] - 1, -1)
    rows = resizing(2 * old[0] - 1, 2 * new[0] - 1).to(table.device)
    columns = resizing(2 * old[1] - 1, 2 * new[1] - 1).to(table.device)
    resized = torch.einsum("ar,rch,bc->abh", rows, offsets, columns)
    return torch.cat([resized.flatten(0, 1).to(table.dtype), table[-CLASS_ROWS:]])


def resize_absolute_position(
    position: Float[Tensor, "1 tokens width"], old: Grid, new: Grid
) -> Float[Tensor, "1 new_tokens width"]:
    """Absolute position vectors for another grid: bicubic, the class token's stays as it is.

    Args:
        position: The class token's vector, then those of the patches, row by row.
        old: Grid of the vectors.
        new: Grid of the result.
    """
    if old == new:
        return position
    patches = position[:, 1:].float().reshape(1, old[0], old[1], -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=new, mode="bicubic", align_corners=False)
    resized = patches.flatten(2).transpose(1, 2).to(position.dtype)
    return torch.cat([position[:, :1], resized], dim=1)


@functools.lru_cache(maxsize=64)
def resizing(old: int, new: int) -> Float[Tensor, "new old"]:
    """The linear map from `old` offsets to `new` offsets (both odd, centred on zero), fp32."""
    with torch.device("cpu"), torch.inference_mode(False):  # as the cache outlives the caller's
        if old == new or old == 1:
            return torch.eye(new, old) if old == new else torch.ones(new, old)
        if new > old:
            source = _geometric_offsets(old // 2, new // 2)
            target = torch.arange(-(new // 2), new // 2 + 1, dtype=torch.float64)
        else:
            source = torch.arange(-(old // 2), old // 2 + 1, dtype=torch.float64)
            target = _geometric_offsets(new // 2, old // 2)
        # The outermost source offset can miss the target by 1e-4; the published routine clamps.
        return _spline(source, target.clamp(source[0], source[-1])).float()


def _geometric_offsets(count: int, reach: int) -> Float[Tensor, " offsets"]:
    """Offsets 0, ±1, ±(1+q), ±(1+q+q²)... with q found so that the last of `count` is `reach`."""
    low, high, ratio = 1.01, 1.5, 1.01
    while high - low > 1e-6:  # the last ratio tried is taken, as published: far offsets show it
        ratio = (low + high) / 2
        if (1 - ratio**count) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    positive = ratio ** torch.arange(count, dtype=torch.float64)
    positive = positive.cumsum(0)
    return torch.cat([-positive.flip(0), positive.new_zeros(1), positive])


def _spline(
    source: Float[Tensor, " source"], target: Float[Tensor, " target"]
) -> Float[Tensor, "target source"]:
    """Matrix of the not-a-knot cubic spline through values at `source`, read at `target`, fp64."""
    count = len(source)
    if count < 4:  # a polynomial through all points is what the spline degenerates to
        powers = torch.arange(count)
        vandermonde = source[:, None] ** powers
        weights: Tensor = target[:, None] ** powers @ torch.linalg.inv(vandermonde)
        return weights
    step = source.diff()
    # Second derivatives m solve left @ m = right @ values, one row per knot.
    left = torch.zeros(count, count, dtype=torch.float64)
    right = torch.zeros(count, count, dtype=torch.float64)
    for i in range(1, count - 1):
        before, after = step[i - 1], step[i]
        left[i, i - 1 : i + 2] = torch.stack([before, 2 * (before + after), after])
        right[i, i - 1 : i + 2] = 6 * torch.stack([1 / before, -1 / before - 1 / after, 1 / after])
    # Not-a-knot: the third derivative is continuous at the second and the last but one knot.
    left[0, :3] = torch.stack([-step[1], step[0] + step[1], -step[0]])
    left[-1, -3:] = torch.stack([-step[-1], step[-2] + step[-1], -step[-2]])
    curvature = torch.linalg.solve(left, right)
    interval = (torch.searchsorted(source, target, right=True) - 1).clamp(0, count - 2)
    width = step[interval]
    after = (target - source[interval]) / width
    before = 1 - after
    values = torch.eye(count, dtype=torch.float64)
    linear = before[:, None] * values[interval] + after[:, None] * values[interval + 1]
    bend_before = ((before**3 - before) * width**2 / 6)[:, None] * curvature[interval]
    bend_after = ((after**3 - after) * width**2 / 6)[:, None] * curvature[interval + 1]
    spline: Tensor = linear + bend_before + bend_after
    return spline
