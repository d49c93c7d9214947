"""Tokens without any learning: a random projection to the nearest random code (BEST-RQ)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.config.tokenizer import RandomProjectionConfig
from beit.errors import ConfigError
from beit.tokenizers.base import VisualTokenizer


class RandomProjection(VisualTokenizer):
    """Patches of images at zero mean, through a matrix (Xavier's uniform draw), to the code at
    the smallest angle (arXiv:2202.01855, eq. 1). Matrix and codes are drawn once."""

    config: RandomProjectionConfig
    can_decode = False
    codebook: Tensor

    def __init__(self, config: RandomProjectionConfig) -> None:
        super().__init__(config)
        generator = torch.Generator().manual_seed(config.seed)
        inputs = config.patch**2 * config.channels
        self.projection = nn.Linear(inputs, config.codebook_width, bias=False)
        nn.init.xavier_uniform_(self.projection.weight, generator=generator)
        self.projection.requires_grad_(False)
        codes = torch.randn(config.codes, config.codebook_width, generator=generator)
        self.register_buffer("codebook", F.normalize(codes, dim=1))

    def _vectors(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches features"]:
        mean, std = (
            pixels.new_tensor(values)[:, None, None]
            for values in (self.config.mean, self.config.std)
        )
        patch = self.config.patch
        patches = F.unfold((pixels - mean) / std, kernel_size=patch, stride=patch).transpose(1, 2)
        vectors: Tensor = self.projection(patches.to(self.precision))
        return vectors

    def _scores(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows codes"]:
        return F.normalize(rows, dim=1) @ self.codebook.t()

    def _trunk(self) -> Iterable[nn.Module]:
        return (self.projection,)

    def _decode(
        self, tokens: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        raise ConfigError(
            "random codes cannot be painted",
            remedy="look at images through a discrete VAE or a VQ tokenizer",
        )
