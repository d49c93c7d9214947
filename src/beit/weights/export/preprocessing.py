"""What happens to an image before the model, as part of the exported graph.

The antialiased resizing is that of Pillow and PyTorch (bicubic: a = -0.5; the filter as wide as the
step), written as one matrix per axis, so that no runtime's own resizing is asked for. Rows are
rounded to whole levels after each axis, columns first, as these libraries do in uint8.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from beit.config.data import Resize
from beit.errors import ConfigError
from beit.weights.store import Details

Preprocess = Literal["none", "normalise", "resize"]
"""none: floats [B,C,H,W] as the model reads them (normalised; of a tokenizer in [0, 1]).
normalise: uint8 [B,H,W,C] of the model's size. resize: uint8 [B,H,W,C] of any size."""
Kernel = Literal["bicubic", "bilinear"]
RESIZING_LEVELS = 1
"""Levels out of 255 by which the graph's resizing may differ from PyTorch's in uint8, which rounds
its weights to 16 bits."""


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
        # The side that needs the larger factor decides, the other one follows in proportion.
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


def central_view_graph(size: tuple[int, int], said: Details) -> CentralView:
    """The graph of how an artifact has images resized. Raises ConfigError for Lanczos."""
    if said.interpolation == "lanczos":
        raise ConfigError(
            "the model has its images resized by Lanczos, which no graph does",
            remedy="export it with --preprocess normalise, and resize before",
        )
    return CentralView(size, said.crop, said.resize, said.interpolation)


def _levels(pixels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return (pixels + 0.5).floor().clamp(0, 255)


def _weights(
    length: int, old: Tensor, scaled: Tensor, new: int, kernel: Kernel
) -> Float[Tensor, "new old"]:
    """Row i reads pixel i of the `new` central ones of the side resized from `old` to `scaled`."""
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
