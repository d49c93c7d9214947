"""The architecture of a backbone, read off the shapes of published weights.

What shapes cannot say (the pixel statistics, the heads of a backbone without relative bias, the
sides of a grid that is not square) comes from whoever opens the file, from the configuration beside
it, or is the convention of the family; each such choice is noted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from beit.config import VisionTransformerConfig
from beit.config.data import Resize
from beit.config.model import HALF, IMAGENET_MEAN, IMAGENET_STD
from beit.config.tokenizer import Interpolation
from beit.errors import CheckpointError
from beit.models.layers import NORM_EPSILON
from beit.models.position import Grid, relative_position_index, table_length
from beit.weights.names import INDEX, TABLE, Tensors

HEAD_WIDTH = 64  # of every published size but one, which has a relative bias to tell
MOST = 1 << 16  # no side of a real tensor that decides the architecture is larger
MOST_PATCHES = 4096  # the index of the relative bias grows with their square
BLOCK = re.compile(r"blocks\.(\d{1,4})\.")
TO_STATE = "give mean and std to beit.load, or --mean and --std to `beit convert`"


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What is said about a model beside its weights; None where nothing is."""

    size: tuple[int, int] | None = None
    """Height and width in pixels."""
    heads: int | None = None
    """Attention heads."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, for pixels in [0, 1]."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, for pixels in [0, 1]."""
    crop: float | None = None
    """Share of the side that the evaluation crop keeps."""
    resize: Resize | None = None
    """Whether an image keeps its proportions when it is resized."""
    interpolation: Interpolation | None = None
    """How an image is resized."""
    epsilon: float | None = None
    """What the norms add to the variance."""
    multi_label: bool | None = None
    """Whether each class is answered on its own."""
    regression: bool | None = None
    """Whether the head gives values, not classes."""
    classes: tuple[str, ...] | None = None
    """Class names in the order of the logits."""
    tap: int | None = None
    """Block, counted from 1, that patch aggregation reads (9 of 12, 21 of 24 as published)."""
    taps: tuple[int, ...] | None = None
    """Blocks that a segmentation head reads, 0 is the first."""
    pools: tuple[int, ...] | None = None
    """Cells per side of each pooling of a segmentation head."""

    def over(self, other: Overrides) -> Overrides:
        """What is said here, and where nothing is, what the other says."""
        return replace(other, **{key: said for key, said in vars(self).items() if said is not None})


class Trunk(NamedTuple):
    """A backbone as its weights show it, and what they leave open."""

    config: VisionTransformerConfig
    notes: tuple[str, ...]


def backbone_config(tensors: Tensors, stated: Overrides, *, imagenet: bool = False) -> Trunk:
    """The config of a trunk with published names, and the choices that the file does not settle.

    `imagenet` says that the family was trained with the pixel statistics of ImageNet. Raises
    CheckpointError for tensors that are no such trunk, or whose persisted index is not the
    published one.
    """
    width, channels, patch, across = shape_of(tensors, "patch_embed.proj.weight", 4)
    numbers = {int(found[1]) for found in map(BLOCK.match, tensors) if found}
    depth = len(numbers)
    if patch != across or not numbers or max(numbers) != depth - 1:
        raise CheckpointError(
            f"the patches of the file are {patch} x {across} pixels, and it has {depth} blocks, "
            f"the last of which has number {max(numbers, default='none')}",
            remedy="give a file with square patches and all of its blocks",
        )
    shared, own = f"rel_pos_bias.{TABLE}", f"blocks.0.attn.{TABLE}"
    table = next((name for name in (shared, own) if name in tensors), None)
    rows, columns = shape_of(tensors, table, 2) if table else (None, 0)
    heads = _heads(columns, width, stated)
    grid = _grid(tensors, rows, patch, stated)
    scaled = "blocks.0.gamma_1" in tensors
    plain = "pos_embed" in tensors and not table
    statistics = _statistics(channels, stated, imagenet=imagenet or (plain and not scaled),
                             documents=plain and scaled)  # fmt: skip
    config = VisionTransformerConfig(
        size=(grid[0] * patch, grid[1] * patch),
        patch=patch,
        channels=channels,
        width=width,
        depth=depth,
        heads=heads,
        hidden=shape_of(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
        absolute_position="pos_embed" in tensors,
        relative_position="shared" if shared in tensors else "per-block" if own in tensors
        else "none",
        layer_scale=(0.1 if depth <= 12 else 1e-5) if scaled else None,
        mask_token="mask_token" in tensors,
        mean=statistics.mean,
        std=statistics.std,
        norm_epsilon=stated.epsilon or NORM_EPSILON,
    )  # fmt: skip
    guessed = not columns and not stated.heads
    counted = (f"{heads} heads of width {HEAD_WIDTH}, as published",) if guessed else ()
    return Trunk(config, counted + statistics.notes)


def shape_of(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there. Raises CheckpointError for any other."""
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != dimensions or not 0 < min(tensor.shape) <= MOST:
        found = "has none" if tensor is None else f"has one of shape {tuple(tensor.shape)}"
        raise CheckpointError(
            f"there should be a '{name}' of {dimensions} dimensions, the file {found}",
            remedy="give a file of the BEiT family",
        )
    return tuple(tensor.shape)


def _heads(columns: int, width: int, stated: Overrides) -> int:
    if columns:
        return columns
    if stated.heads:
        return stated.heads
    if width % HEAD_WIDTH:
        raise CheckpointError(
            f"the file does not say how many heads share its width of {width}: it has no relative "
            f"bias, and the published width of a head, {HEAD_WIDTH}, does not divide it",
            remedy="say it: heads=... in Python, --heads ... on the command line",
        )
    return width // HEAD_WIDTH


def _grid(tensors: Tensors, rows: int | None, patch: int, stated: Overrides) -> Grid:
    """Patches per side: stated, told by the persisted index, or a square; checked against all."""
    indices = {name: value for name, value in tensors.items() if name.endswith(INDEX)}
    count = shape_of(tensors, next(iter(indices)), 2)[0] - 1 if indices else None
    if "pos_embed" in tensors:
        count = shape_of(tensors, "pos_embed", 3)[1] - 1
    if stated.size is not None:
        grid = stated.size[0] // patch, stated.size[1] // patch
    elif count is None and rows is None:
        raise CheckpointError(
            "the file has no positions of any kind, so its image size is unknown",
            remedy="say it: size=(height, width) in Python, --size on the command line",
        )
    else:
        root = math.isqrt(max((rows or 0) - 3, 0))
        side = math.isqrt(count) if count is not None else (root + 1) // 2
        grid = _oblong(count, rows, indices) or (side, side)
    fits = (rows is None or rows == table_length(grid)) and (
        count is None or count == grid[0] * grid[1]
    )
    if grid[0] * grid[1] > MOST_PATCHES:
        raise CheckpointError(
            f"positions for {grid[0]} x {grid[1]} patches are beyond any released model",
            remedy=f"up to {MOST_PATCHES} patches are read",
        )
    if not fits or 0 in grid:
        raise CheckpointError(
            f"positions for a grid of {grid[0]} x {grid[1]} patches do not fit the file: it has "
            f"{rows if rows is not None else 'no'} rows of relative bias and "
            f"{count if count is not None else 'no count of'} patches",
            remedy="if its images are not square, give their size",
        )
    wrong = [name for name, value in indices.items()
             if not torch.equal(value.long(), relative_position_index(grid))]  # fmt: skip
    if wrong:
        raise CheckpointError(
            f"{wrong[0]} is not the published index of a grid of {grid[0]} x {grid[1]} patches",
            remedy="the file is damaged, or of another architecture",
        )
    return grid


def _oblong(count: int | None, rows: int | None, indices: Tensors) -> Grid | None:
    """The sides from h * w patches and (2h-1)(2w-1)+3 rows; the index tells which is which."""
    if count is None or rows is None or not indices:
        return None
    total = (4 * count + 1 - (rows - 3)) // 2
    inner = total * total - 4 * count
    if total < 2 or inner < 0:
        return None
    short = (total - math.isqrt(inner)) // 2
    if short == 1 and total > 2:
        return None  # a strip of one patch has the same index upright and flat
    index = next(iter(indices.values()))
    for grid in ((short, total - short), (total - short, short)):
        if grid[0] * grid[1] == count and torch.equal(index.long(), relative_position_index(grid)):
            return grid
    return None


class _Statistics(NamedTuple):
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]


def _statistics(
    channels: int, stated: Overrides, *, imagenet: bool, documents: bool
) -> _Statistics:
    """Mean and standard deviation: stated, or by family (beit-reference, trap 8)."""
    if stated.mean is not None and stated.std is not None:
        return _Statistics(stated.mean, stated.std, ())
    if channels != 3:
        note = f"mean and std 0.5 for {channels} channels: the file does not say"
        return _Statistics((0.5,) * channels, (0.5,) * channels, (note,))
    if imagenet:
        note = "mean and std of ImageNet, as its family was trained"
        return _Statistics(IMAGENET_MEAN, IMAGENET_STD, (note,))
    if documents:
        note = (
            "mean and std 0.5, as DiT was trained, whose architecture this is (absolute positions "
            "with layer scale); if it was trained otherwise, " + TO_STATE
        )
        return _Statistics(HALF, HALF, (note,))
    note = (
        "mean and std 0.5, as BEiT v1 on ImageNet-22k was trained; fine-tuned files of BEiT v2 "
        "look the same and need those of ImageNet: then " + TO_STATE
    )
    return _Statistics(HALF, HALF, (note,))
