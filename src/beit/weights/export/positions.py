"""Positions for images of any size, computed in the exported graph.

`beit.models.position` finds the resizing of a relative table by a search, which no graph can hold.
But for each number of patches per side it is one small matrix: all of them, up to the largest side,
go into the file, and the graph picks one per axis. Absolute positions are resized by the same
bicubic interpolation as in the model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from beit.models.inference import KeptBias
from beit.models.position import CLASS_ROWS, Grid, RelativePositionBias, resizing
from beit.models.vit import PatchEmbedding, VisionTransformer


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
    """The matrices of `resizing` to 1, 2, ... patches per side, filled up with zeros."""
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
    """Change a backbone, in place, to one whose exported graph reads images of any size."""
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
