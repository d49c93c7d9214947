"""Code of one's own for docs/own-code.md: a tokenizer without training, and a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from beit.config import PretrainRunConfig, TokenizerConfig, UniformMasking
from beit.recipes.pretrain import tiny
from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import VisualTokenizer


@dataclass(frozen=True, kw_only=True)
class GreysConfig(TokenizerConfig):
    """A token is the mean brightness of a patch, in `codes` even steps."""

    stride: int = 4

    @property
    def downsampling(self) -> int:
        return self.stride


class Greys(VisualTokenizer):
    """The tokens of GreysConfig."""

    centres: Tensor

    def __init__(self, config: GreysConfig) -> None:
        super().__init__(config)
        self.pool = nn.AvgPool2d(config.stride)
        centres = (torch.arange(config.codes) + 0.5) / config.codes
        self.register_buffer("centres", centres)

    def _vectors(self, pixels: Tensor) -> Tensor:
        """The mean brightness of each patch, [B,N,1]."""
        means = self.pool(pixels.to(self.precision)).mean(dim=1)
        return means.flatten(1)[:, :, None]

    def _scores(self, rows: Tensor) -> Tensor:
        """Nearest centre wins, [rows,K]."""
        return -(rows - self.centres).abs()

    def _trunk(self) -> Iterable[nn.Module]:
        return [self.pool]

    def _decode(self, tokens: Tensor) -> Tensor:
        """Flat squares of the patches' brightness."""
        grey = self.centres[tokens][:, None].expand(-1, self.config.channels, -1, -1)
        stride = self.config.downsampling
        return grey.repeat_interleave(stride, dim=2).repeat_interleave(stride, dim=3)


build_tokenizer.register(GreysConfig, Greys)


def greys() -> Greys:
    """16 greys for the 8 x 8 patches of the recipe `tiny`."""
    return Greys(GreysConfig(size=(32, 32), codes=16))


def recipe() -> PretrainRunConfig:
    """`tiny` with half of the patches hidden one by one."""
    return replace(tiny(), masking=UniformMasking(mask_ratio=0.5))
