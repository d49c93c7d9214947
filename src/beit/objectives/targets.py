"""What is predicted for a patch: its visual token, or its pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.batch import MaskedBatch
from beit.config.model import VisionTransformerConfig
from beit.errors import ConfigError
from beit.masked_patches import MaskedPatches
from beit.tokenizers.base import VisualTokenizer
from beit.tokenizers.token_cache import TokenCache


class TokenTargets(nn.Module):
    """The visual tokens of the clean view, from the frozen tokenizer or a cache.

    In half precision a few tokens in a thousand differ, so the first batch is encoded in both
    precisions and the fraction of equal tokens is reported.
    """

    def __init__(
        self, tokenizer: VisualTokenizer, precision: torch.dtype, cache: TokenCache | None
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer.freeze()
        self._cache = cache
        self._exact: VisualTokenizer | None = None  # until the two have been compared
        self._agreement: Tensor | None = None
        if precision != torch.float32:
            self.tokenizer, self._exact = tokenizer.in_precision(precision), tokenizer

    def forward(
        self, batch: MaskedBatch, masked: MaskedPatches | None
    ) -> Int64[Tensor, " targets"]:
        """The tokens of the masked patches in row-major order; without `masked`, of all."""
        tokens = self._encoded(batch, masked)
        if self._exact is not None:
            exact = self._exact.encode(batch.token_images, masked)
            self._agreement = (tokens == exact).float().mean()
            self._exact = None
        return tokens.flatten()

    def _encoded(
        self, batch: MaskedBatch, masked: MaskedPatches | None
    ) -> Int64[Tensor, "*targets"]:
        tokenizer, images = self.tokenizer, batch.token_images
        if self._cache is None:
            return tokenizer.encode(images, masked)
        assert batch.views is not None, "a cache is for views that recur"
        tokens = self._cache.tokens(batch.views, lambda missing: tokenizer.encode(images[missing]))
        tokens = tokens.to(images.device)
        return tokens if masked is None else masked.select(tokens)

    def agreement(self) -> dict[str, float]:
        """The fraction of tokens that both precisions agree on, reported once; later nothing."""
        if self._agreement is None:
            return {}
        agreement, self._agreement = float(self._agreement), None
        return {"token_agreement": agreement}


def pixel_values(backbone: VisionTransformerConfig) -> int:
    """Values in one patch."""
    return backbone.patch**2 * backbone.channels


def patchify(
    images: Float[Tensor, "batch channels height width"], patch: int
) -> Float[Tensor, "batch patches values"]:
    """Cut images into patches, row by row; the values of each in (channel, row, column) order."""
    return F.unfold(images, kernel_size=patch, stride=patch).transpose(1, 2)


def check_tokenizer(
    tokenizer: VisualTokenizer | None, backbone: VisionTransformerConfig, outputs: int
) -> VisualTokenizer:
    """Check that each patch has exactly one token and each token one output.

    Args:
        tokenizer: None if none was given.
        backbone: Of the model that predicts the tokens.
        outputs: Outputs of its head.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: There is no tokenizer, or its grid, codes or channels do not fit.
    """
    if tokenizer is None:
        raise ConfigError(
            "predicting tokens needs a tokenizer",
            remedy="train one with `beit tokenizer`, and name it with --tokenizer",
        )
    if tokenizer.grid != backbone.grid:
        raise ConfigError(
            f"the tokenizer gives {tokenizer.grid[0]} x {tokenizer.grid[1]} tokens "
            f"(size {tokenizer.size}, stride {tokenizer.config.downsampling}), the backbone has "
            f"{backbone.grid[0]} x {backbone.grid[1]} patches (size {backbone.size}, patch "
            f"{backbone.patch})",
            remedy="train a tokenizer for this grid, or change size or patch",
        )
    if tokenizer.codes != outputs:
        raise ConfigError(
            f"the tokenizer has {tokenizer.codes} codes, the head predicts {outputs}",
            remedy="build the head for the tokenizer's vocabulary",
        )
    if tokenizer.config.channels != backbone.channels:
        raise ConfigError(
            f"the tokenizer reads {tokenizer.config.channels} channels, the backbone "
            f"{backbone.channels}",
            remedy="train both on images of the same kind",
        )
    return tokenizer
