"""UperNet (arXiv:1807.10221) on a plain Vision Transformer, wired and named as published: a neck
that makes a pyramid out of four blocks, the head, and the auxiliary head."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from beit.config.segmentation import check_pyramid, check_statistics
from beit.models.layers import Dropping

Map = Float[Tensor, "batch _ _ _"]
Maps = Sequence[Map]
Logits = Float[Tensor, "batch classes rows columns"]


def resize(
    x: Float[Tensor, "batch features _ _"], size: Sequence[int]
) -> Float[Tensor, "batch features _ _"]:
    """Resize maps bilinearly, `align_corners` false as published; at the same size they are left
    alone."""
    height, width = size
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU; He initialisation (mmcv's `ConvModule`)."""

    def __init__(self, *, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        if not self.conv.weight.is_meta:
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, x: Float[Tensor, "batch inputs rows columns"]
    ) -> Float[Tensor, "batch outputs rows columns"]:
        return F.relu(self.bn(self.conv(x)))


class PixelClassifier(nn.Module):
    """The end of every head: dropout of whole channels and a linear map of each cell to classes."""

    def __init__(self, *, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropping(dropout, parts=channels)
        self.conv_seg = nn.Conv2d(channels, classes, 1)
        if not self.conv_seg.weight.is_meta:  # else torch would load its compiler, for no values
            nn.init.normal_(self.conv_seg.weight, std=0.01)
        assert self.conv_seg.bias is not None
        nn.init.zeros_(self.conv_seg.bias)

    def classify(self, x: Float[Tensor, "batch features rows columns"]) -> Logits:
        """Logits of each cell."""
        logits: Tensor = self.conv_seg(self.dropout(x))
        return logits


MANY_CHANNELS = 256
"""From this many channels on, multiplying takes longer than enlarging."""


class Fusion(ConvNorm):
    """Brings maps to the size of the first and convolves all of them together: more than half of
    all multiplications of UperNet and its backbone.

    On a CPU, with many channels, evaluation does it in another order. A 3x3 convolution is nine 1x1
    convolutions, shifted and added; and a 1x1 convolution may come before the enlarging instead of
    after it, where there are fewer cells to multiply. The result is the same but for rounding.
    """

    def merge(self, maps: Maps) -> Map:
        """Merge maps into one of the size of the first."""
        channels, side = self.conv.out_channels, maps[0].shape[-2:]
        if maps[0].device.type == "cpu" and channels >= MANY_CHANNELS and not self.training:
            return F.relu(self.bn(self._enlarged_last(maps)))
        merged: Map = self(torch.cat([resize(each, side) for each in maps], dim=1))
        return merged

    def _enlarged_last(self, maps: Maps) -> Map:
        first, *coarser = (each.contiguous(memory_format=torch.channels_last) for each in maps)
        rows, columns = first.shape[-2:]
        weights = self.conv.weight.split([each.shape[1] for each in maps], dim=1)
        total = F.pad(F.conv2d(first, weights[0], self.conv.bias, padding=1), (1, 1, 1, 1))
        for each, weight in zip(coarser, weights[1:], strict=True):
            for row, column in itertools.product(range(3), range(3)):
                part = F.conv2d(each, weight[:, :, row : row + 1, column : column + 1])
                down, across = 2 - row, 2 - column
                place = total[..., down : down + rows, across : across + columns]
                place += resize(part, (rows, columns))
        return total[..., 1:-1, 1:-1]


class PyramidNeck(nn.Module):
    """Turns four maps of one size into a pyramid: 4 and 2 times as fine, unchanged, half as fine.

    With patches of 16 pixels these are the strides 4, 8, 16 and 32 (unilm, `backbone/beit.py`).
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, stride=2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(width, width, 2, stride=2))

    def forward(self, maps: Maps) -> Maps:
        first, second, third, fourth = maps
        check_pyramid((fourth.shape[-2], fourth.shape[-1]))
        return self.fpn1(first), self.fpn2(second), third, F.max_pool2d(fourth, 2)


class UperNetHead(PixelClassifier):
    """Pool the deepest level, add it from level to level, merge all four at the finest."""

    def __init__(
        self, *, width: int, channels: int, classes: int, dropout: float, pools: Sequence[int]
    ) -> None:
        super().__init__(channels=channels, classes=classes, dropout=dropout)
        self.pools = tuple(pools)
        self.psp_modules = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(pool), ConvNorm(inputs=width, outputs=channels, kernel=1)
            )
            for pool in pools
        )
        self.bottleneck = ConvNorm(inputs=width + len(pools) * channels, outputs=channels, kernel=3)
        self.lateral_convs = nn.ModuleList(
            ConvNorm(inputs=width, outputs=channels, kernel=1) for _ in range(3)
        )
        self.fpn_convs = nn.ModuleList(
            ConvNorm(inputs=channels, outputs=channels, kernel=3) for _ in range(3)
        )
        self.fpn_bottleneck = Fusion(inputs=4 * channels, outputs=channels, kernel=3)

    def _pooled(self, deepest: Map) -> Map:
        """The deepest level merged with its averages over few large cells."""
        if self.training and isinstance(self.bottleneck.bn, nn.BatchNorm2d):  # of this process
            check_statistics(len(deepest) * min(min(self.pools) ** 2, deepest[0, 0].numel()))
        pooled = [resize(pool(deepest), deepest.shape[-2:]) for pool in self.psp_modules]
        merged: Tensor = self.bottleneck(torch.cat([deepest, *pooled], dim=1))
        return merged

    def forward(self, levels: Maps) -> Logits:
        sides = [level.shape[-2:] for level in levels]
        merged = self._pooled(levels[3])
        outputs = [merged]
        for level in (2, 1, 0):
            merged = self.lateral_convs[level](levels[level]) + resize(merged, sides[level])
            outputs.insert(0, self.fpn_convs[level](merged))
        return self.classify(self.fpn_bottleneck.merge(outputs))


class FCNHead(PixelClassifier):
    """One convolution on one level: the auxiliary head, at the stride of that level."""

    def __init__(
        self, *, width: int, channels: int, classes: int, dropout: float, level: int
    ) -> None:
        super().__init__(channels=channels, classes=classes, dropout=dropout)
        self.level = level
        self.convs = nn.ModuleList([ConvNorm(inputs=width, outputs=channels, kernel=3)])

    def forward(self, levels: Maps) -> Logits:
        return self.classify(self.convs[0](levels[self.level]))
