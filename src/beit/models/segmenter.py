"""Semantic segmentation: a class for each pixel, by UperNet or by a head that reads one block."""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from beit.config.model import VisionTransformerConfig
from beit.config.segmentation import (
    LinearHeadConfig,
    SegmentationHeadConfig,
    SETRConfig,
    UperNetConfig,
)
from beit.errors import ConfigError
from beit.models.heads import BackboneModel
from beit.models.layers import layer_norm
from beit.models.upernet import (
    ConvNorm,
    FCNHead,
    Logits,
    Maps,
    PixelClassifier,
    PyramidNeck,
    UperNetHead,
    resize,
)
from beit.models.vit import Images

# -- heads that read one block ---------------------------------------------------------------------


class NormNeck(nn.Module):
    """The final norm, which the backbone lacks, over the channels of each cell."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.norm = layer_norm(width)

    def forward(self, maps: Maps) -> Maps:
        return [self.norm(x.movedim(1, -1)).movedim(-1, 1) for x in maps]


class SETRHead(PixelClassifier):
    """Progressive upsampling (SETR-PUP, arXiv:2012.15840): 3x3 convolutions alternate with
    doublings of the size, until a cell is a pixel again.

    Source: SETR, decoder designs: four convolutions and four doublings with patches of 16 pixels;
    other patches take as many as fit in them. The last doubling comes after the map to classes,
    with which it commutes: the segmenter resizes all logits, and `classes` at half the size are
    cheaper than `channels` at full size. BEiT gives no details of its head and did not release its
    code; SETR's auxiliary heads are left out.
    """

    def __init__(
        self, *, width: int, channels: int, classes: int, dropout: float, patch: int
    ) -> None:
        super().__init__(channels=channels, classes=classes, dropout=dropout)
        doublings = max(patch.bit_length() - 1, 1)
        self.convs = nn.ModuleList(
            ConvNorm(inputs=channels if index else width, outputs=channels, kernel=3)
            for index in range(doublings)
        )

    def forward(self, levels: Maps) -> Logits:
        (x,) = levels
        for index, conv in enumerate(self.convs):
            if index:
                x = resize(x, (2 * x.shape[-2], 2 * x.shape[-1]))
            x = conv(x)
        return self.classify(x)


class LinearHead(PixelClassifier):
    """One linear map from each patch vector to classes."""

    def __init__(self, *, width: int, classes: int, dropout: float) -> None:
        super().__init__(channels=width, classes=classes, dropout=dropout)

    def forward(self, levels: Maps) -> Logits:
        (x,) = levels
        return self.classify(x)


# -- any head by its config ------------------------------------------------------------------------


class HeadParts(NamedTuple):
    """The parts of a head: the outputs of its blocks go through the neck, then to both heads."""

    neck: nn.Module
    decode_head: nn.Module
    auxiliary_head: nn.Module | None


@singledispatch
def build_head(
    config: SegmentationHeadConfig, backbone: VisionTransformerConfig, classes: int
) -> HeadParts:
    """Neck and heads for a backbone. A head of your own is registered like those below.

    Args:
        config: Its type decides which head is built.
        backbone: Decides the width and the patch that the head is built for.
        classes: Number of classes C.

    Raises:
        ConfigError: No head is registered for the type of `config`.
    """
    raise ConfigError(
        f"no head of {classes} classes on a width of {backbone.width} is registered for "
        f"{type(config).__name__}",
        remedy="register one: @build_head.register",
    )


@build_head.register
def _(config: UperNetConfig, backbone: VisionTransformerConfig, classes: int) -> HeadParts:
    width, dropout = backbone.width, config.dropout
    head = UperNetHead(
        width=width,
        channels=config.head_channels or width,
        classes=classes,
        dropout=dropout,
        pools=config.pools,
    )
    auxiliary = None
    if config.auxiliary:
        auxiliary = FCNHead(
            width=width,
            channels=config.auxiliary_channels,
            classes=classes,
            dropout=dropout,
            level=config.auxiliary_level,
        )
    return HeadParts(PyramidNeck(width=width), head, auxiliary)


@build_head.register
def _(config: SETRConfig, backbone: VisionTransformerConfig, classes: int) -> HeadParts:
    head = SETRHead(
        width=backbone.width,
        channels=config.head_channels,
        classes=classes,
        dropout=config.dropout,
        patch=backbone.patch,
    )
    return HeadParts(NormNeck(width=backbone.width), head, None)


@build_head.register
def _(config: LinearHeadConfig, backbone: VisionTransformerConfig, classes: int) -> HeadParts:
    head = LinearHead(width=backbone.width, classes=classes, dropout=config.dropout)
    return HeadParts(NormNeck(width=backbone.width), head, None)


class Predictions(NamedTuple):
    """Logits at the resolution of each head; the auxiliary ones only serve training."""

    main: Float[Tensor, "batch classes rows columns"]
    auxiliary: Float[Tensor, "batch classes auxiliary_rows auxiliary_columns"] | None


class Segmenter(BackboneModel):
    """Backbone and segmentation head (section 3.2; appendix B).

    The heads read the raw outputs of blocks, without the class token. Weights carry the published
    names, but for the neck, which the published files keep in the backbone (`backbone.fpn1`).
    """

    def __init__(
        self, backbone: VisionTransformerConfig, classes: int, head: SegmentationHeadConfig
    ) -> None:
        super().__init__(backbone)
        self.config = head
        self.classes = classes
        self.out_indices = head.blocks(backbone.depth)
        self.neck, self.decode_head, self.auxiliary_head = build_head(head, backbone, classes)

    def _levels(self, images: Images) -> Maps:
        """The maps that the heads read."""
        patch = self.backbone.config.patch
        grid = images.shape[-2] // patch, images.shape[-1] // patch
        outputs = self.backbone(images, out_indices=self.out_indices).intermediates
        levels: Maps = self.neck([x[:, 1:].transpose(1, 2).unflatten(2, grid) for x in outputs])
        return levels

    def logits(self, images: Images) -> Predictions:
        """For training: the logits of both heads, before they are resized."""
        levels = self._levels(images)
        auxiliary = None if self.auxiliary_head is None else self.auxiliary_head(levels)
        return Predictions(self.decode_head(levels), auxiliary)

    def forward(self, images: Images) -> Float[Tensor, "batch classes height width"]:
        """Logits of each pixel, float32: those of the head, resized."""
        main: Tensor = self.decode_head(self._levels(images))
        return resize(main.float(), images.shape[-2:])
