"""Layers that only exported graphs have: positions for any grid, and the preprocessing of images.

`beit.models.position` resizes a relative table by a search, which no graph can express. But for
each number of patches per side, resizing is multiplication by one small matrix: the file holds the
matrices of all sides up to the largest, and the graph picks one per axis. Absolute positions are
resized by the same bicubic interpolation as in the model.

Images are resized as Pillow and PyTorch do with antialiasing (bicubic: a = -0.5; the filter as wide
as the step), written as one matrix per axis, so that no runtime's own resizing is relied on. After
each axis, columns first, values are rounded to whole levels, as these libraries do in uint8.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from beit.config.data import Resize
from beit.errors import ConfigError
from beit.models.inference import KeptBias
from beit.models.position import CLASS_ROWS, Grid, RelativePositionBias, resizing
from beit.models.vit import PatchEmbedding, VisionTransformer
from beit.weights.store import Details

Kernel = Literal["bicubic", "bilinear"]
RESIZING_LEVELS = 1
"""Levels out of 255 by which the graph's resizing may differ from PyTorch's in uint8, which rounds
its weights to 16 bits."""


class AnyGridBias(nn.Module):
    """The relative position bias of every grid with up to `largest` patches per side."""

    def __init__(self, learned: RelativePositionBias, largest: int) -> None:
        super().__init__()
        self.heads = learned.relative_position_bias_table.shape[1]
        rows, columns = (2 * side - 1 for side in learned.grid)
        table = learned.relative_position_bias_table.detach()
        self.register_buffer(
            "offsets", table[:-CLASS_ROWS].float().reshape(rows, columns, -1).clone()
        )
        self.register_buffer("ends", table[-CLASS_ROWS:].clone())
        self.register_buffer("rows", _all_resizings(rows, largest))
        self.register_buffer("columns", _all_resizings(columns, largest))

    def forward(self, grid: Grid) -> Float[Tensor, "heads tokens tokens"]:
        height, width = grid
        rows = self.get_buffer("rows")[height - 1, : 2 * height - 1]
        columns = self.get_buffer("columns")[width - 1, : 2 * width - 1]
        ends = self.get_buffer("ends")
        offsets = torch.einsum("ar,rch,bc->abh", rows, self.get_buffer("offsets"), columns)
        down = torch.arange(height)[:, None] - torch.arange(height)[None] + height - 1
        across = torch.arange(width)[:, None] - torch.arange(width)[None] + width - 1
        place = down[:, None, :, None] * (2 * width - 1) + across[None, :, None, :]
        patches = offsets.to(ends.dtype).flatten(0, 1)[place.reshape(-1)]
        patches = patches.reshape(height * width, height * width, self.heads)
        from_class = ends[0].expand(1, height * width, self.heads)
        to_class = ends[1].expand(height * width, 1, self.heads)
        top = torch.cat([ends[2].expand(1, 1, self.heads), from_class], dim=1)
        below = torch.cat([to_class, patches], dim=1)
        return torch.cat([top, below]).permute(2, 0, 1)


def _all_resizings(old: int, largest: int) -> Float[Tensor, "sides new old"]:
    """The matrices of `resizing` to 1, 2, ... patches per side, padded with zeros."""
    found = torch.zeros(largest, 2 * largest - 1, old)
    for side in range(1, largest + 1):
        found[side - 1, : 2 * side - 1] = resizing(old, 2 * side - 1)
    return found


class PositionedEmbedding(nn.Module):
    """Patch embedding with absolute positions, resized to the grid of the image."""

    def __init__(
        self, embedding: PatchEmbedding, positions: Float[Tensor, "1 width h w"], patch: int
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.patch = patch
        self.register_buffer("positions", positions.clone())

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches features"]:
        grid = images.shape[2] // self.patch, images.shape[3] // self.patch
        positions = self.get_buffer("positions")
        resized = F.interpolate(positions.float(), size=grid, mode="bicubic", align_corners=False)
        embedded: Tensor = self.embedding(images)
        return embedded + resized.flatten(2).transpose(1, 2).to(embedded.dtype)


@torch.no_grad()
def read_any_grid(backbone: VisionTransformer, largest: int) -> None:
    """Change a backbone, in place, so that its exported graph reads images of any size."""
    for name, module in list(backbone.named_modules()):
        learned = module.learned if isinstance(module, KeptBias) else module
        parent = name.rpartition(".")[0]
        if isinstance(learned, RelativePositionBias) and not isinstance(
            backbone.get_submodule(parent), KeptBias | AnyGridBias
        ):
            backbone.set_submodule(name, AnyGridBias(learned, largest))
    if backbone.pos_embed is None:
        return
    vectors = backbone.pos_embed
    height, width = backbone.config.grid
    grid = vectors[:, 1:].transpose(1, 2).unflatten(2, (height, width))
    embedding = PositionedEmbedding(backbone.patch_embed, grid, backbone.config.patch)
    backbone.set_submodule("patch_embed", embedding)
    backbone.cls_token.add_(vectors[:, :1])
    backbone.pos_embed = None


# -- images ---------------------------------------------------------------------------------------


class Normalise(nn.Module):
    """uint8 [B,H,W,C] to floats [B,C,H,W]."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch channels height width"]:
        pixels = images.permute(0, 3, 1, 2).float() / 255
        return (pixels - self.get_buffer("mean")) / self.get_buffer("std")


class CentralView(nn.Module):
    """uint8 [B,H,W,C] of any size to [B,h,w,C]: `beit.data.augment.central_view` as a graph."""

    def __init__(
        self,
        size: tuple[int, int],
        crop: float,
        resize: Resize = "cover",
        kernel: Kernel = "bicubic",
    ) -> None:
        super().__init__()
        self.size = size
        self.cover = (int(size[0] / crop), int(size[1] / crop))
        self.stretches = resize == "stretch"
        self.kernel: Kernel = kernel

    def forward(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> UInt8[Tensor, "batch new_height new_width channels"]:
        sides = images.shape[1:3]
        height, width = (torch.full((), side, dtype=torch.int64) for side in sides)
        # The side that needs the larger factor sets the scale; the other follows in proportion.
        scaled = (
            (width * 0 + self.cover[0]).maximum(self.cover[1] * height // width),
            (height * 0 + self.cover[1]).maximum(self.cover[0] * width // height),
        )
        if self.stretches:
            scaled = (height * 0 + self.cover[0], width * 0 + self.cover[1])
        rows = _weights(sides[0], height, scaled[0], self.size[0], self.kernel)
        columns = _weights(sides[1], width, scaled[1], self.size[1], self.kernel)
        planes = images.permute(0, 3, 1, 2).float()
        across = _levels(planes @ columns.t())
        return _levels(rows @ across).permute(0, 2, 3, 1).to(torch.uint8)


def central_view_graph(size: tuple[int, int], details: Details) -> CentralView:
    """The graph that resizes images as an artifact states. Raises ConfigError for Lanczos."""
    if details.interpolation == "lanczos":
        raise ConfigError(
            "the model has its images resized by Lanczos, which no graph does",
            remedy="export it with --preprocess normalise, and resize before",
        )
    return CentralView(size, details.crop, details.resize, details.interpolation)


def _levels(pixels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return (pixels + 0.5).floor().clamp(0, 255)


def _weights(
    length: int, old: Tensor, scaled: Tensor, new: int, kernel: Kernel
) -> Float[Tensor, "new old"]:
    """The matrix that resizes a side from `old` to `scaled` pixels and keeps the `new` central
    ones."""
    old, scaled = old.double(), scaled.double()
    first = ((scaled - new) / 2).round()
    step = old / scaled
    width = step.clamp(min=1)
    centre = (torch.arange(new) + first + 0.5) * step
    distance = ((torch.arange(length) + 0.5)[None] - centre[:, None]).abs() / width
    zero = torch.zeros_like(distance)
    if kernel == "bilinear":
        weights = (1 - distance).maximum(zero)
        return (weights / weights.sum(dim=1, keepdim=True)).float()
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, zero))
    return (weights / weights.sum(dim=1, keepdim=True)).float()
