"""Heads that read one block: progressive upsampling (SETR-PUP, arXiv:2012.15840) and linear."""

from __future__ import annotations

from torch import nn

from beit.models.layers import layer_norm
from beit.models.upernet import ConvNorm, Logits, Maps, PixelClassifier, resize


class NormNeck(nn.Module):
    """The norm that the backbone ends without, over the channels of each cell."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.norm = layer_norm(width)

    def forward(self, maps: Maps) -> Maps:
        return [self.norm(x.movedim(1, -1)).movedim(-1, 1) for x in maps]


class SETRHead(PixelClassifier):
    """3x3 convolutions in turn with doublings of the size, until a patch is a pixel again.

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
