"""The health of a tokenizer: how well it reconstructs, how many codes it uses, how stable and how
informative its tokens are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from beit.batch import ImageBatch, LabelledBatch
from beit.objectives.base import entropy
from beit.tokenizers.base import VisualTokenizer

COLLAPSED_FRACTION, LITTLE = 0.05, 0.15
FLAT = 4 / 255
"""A patch whose values differ by less is flat: it shows nothing that a token could tell."""


class TokenizerHealth(NamedTuple):
    """Measured with the best code at each position, which is what pre-training uses."""

    psnr: float
    """Peak signal-to-noise ratio of the reconstructions in dB, from the error over all images;
    nan if the tokenizer cannot decode."""
    codes_in_use: int
    perplexity: float
    """exp of the entropy of the tokens: how many evenly used codes would carry as much."""
    counts: Tensor
    """How often each code occurred, int64 [K]."""
    shown: Tensor
    """The same among patches that are not flat, int64 [K]: a plain background has a single code."""

    @property
    def collapsed(self) -> bool:
        """Whether the perplexity is that of fewer than one code in twenty.

        Pre-training would then learn next to nothing. Judged on the patches that are not flat, if
        there are any, and relative to their number if it is smaller than that of the codes.
        """
        return self._uses_less_than(COLLAPSED_FRACTION)

    @property
    def nearly_collapsed(self) -> bool:
        """Whether so few codes are used that tokens say little, though they have not collapsed."""
        return not self.collapsed and self._uses_less_than(LITTLE)

    def _uses_less_than(self, fraction: float) -> bool:
        counts = self.shown if self.shown.any() else self.counts
        possible = min(len(counts), int(counts.sum()))
        return float(entropy(counts.float()).exp()) < max(2.0, fraction * possible)


def decibels(error: float) -> float:
    """PSNR in dB for a mean squared error of values in [0, 1]; at most 120."""
    return -10 * math.log10(max(error, 1e-12))


@torch.no_grad()
def tokenizer_health(
    tokenizer: VisualTokenizer, batches: Iterable[ImageBatch], *, device: torch.device
) -> TokenizerHealth:
    """Measure reconstruction and use of the codes, in one pass over images.

    Args:
        tokenizer: On `device`.
        batches: At least one image, of the tokenizer's size.
        device: Where the tokenizer runs.
    """
    counts = torch.zeros(tokenizer.codes, dtype=torch.int64)
    shown = counts.clone()
    error, values = 0.0, 0
    for batch in batches:
        images = batch.images.to(device)
        tokens = tokenizer.encode(images)
        if tokenizer.can_decode:
            decoded = tokenizer.decode(tokens)
            squares = (decoded - tokenizer.pixels(images)).square().flatten(1).sum(dim=1)
            error += float(squares.cpu().double().sum())
            values += decoded.numel()
        shows = _shows_something(tokenizer.pixels(images), tokenizer.config.downsampling)
        counts += torch.bincount(tokens.flatten(), minlength=tokenizer.codes).cpu()
        shown += torch.bincount(tokens.flatten()[shows.flatten()], minlength=len(shown)).cpu()
    assert counts.any(), "health needs at least one image"
    return TokenizerHealth(
        psnr=decibels(error / values) if values else math.nan,
        codes_in_use=int((counts > 0).sum()),
        perplexity=float(entropy(counts.float()).exp()),
        counts=counts,
        shown=shown,
    )


def _shows_something(
    pixels: Float[Tensor, "batch channels height width"], side: int
) -> Bool[Tensor, "batch h w"]:
    """Which patches of `side` x `side` pixels are not flat."""
    span = F.max_pool2d(pixels, side) + F.max_pool2d(-pixels, side)
    return span.amax(dim=1) >= FLAT


class TokenStability(NamedTuple):
    """Fractions of positions that keep their token."""

    flips: float
    """When the image is mirrored left to right, and its tokens are mirrored back."""
    crops: float
    """When the first row and column of patches are cut off, so that their neighbours see less."""


@torch.no_grad()
def token_stability(
    tokenizer: VisualTokenizer, batches: Iterable[ImageBatch], *, device: torch.device
) -> TokenStability:
    """How many tokens survive mirroring and cropping, in one pass over images.

    Args:
        tokenizer: On `device`, with a grid of at least 2 x 2.
        batches: At least one image, of the tokenizer's size.
        device: Where the tokenizer runs.
    """
    stride, (height, width) = tokenizer.config.downsampling, tokenizer.grid
    mirrored = cropped = whole = inner = 0
    for batch in batches:
        images = batch.images.to(device)
        tokens = tokenizer.encode(images).reshape(-1, height, width)
        again = tokenizer.encode(images.flip(3)).reshape(-1, height, width).flip(2)
        mirrored += int((again == tokens).sum())
        whole += tokens.numel()
        part = tokenizer.encode(images[:, :, stride:, stride:].contiguous())
        kept = tokens[:, 1:, 1:]
        cropped += int((part.reshape(kept.shape) == kept).sum())
        inner += kept.numel()
    assert whole, "stability needs at least one image"
    return TokenStability(flips=mirrored / whole, crops=cropped / inner)


@torch.no_grad()
def token_histograms(
    tokenizer: VisualTokenizer,
    batches: Iterable[ImageBatch | LabelledBatch],
    *,
    device: torch.device,
) -> Float[Tensor, "images codes"]:
    """Square roots of the code frequencies of each image: the cosine of two rows is their overlap.

    Args:
        tokenizer: On `device`.
        batches: At least one image, of the tokenizer's size.
        device: Where the tokenizer runs; the histograms are on the CPU.
    """
    rows = []
    for batch in batches:
        tokens = tokenizer.encode(batch.images.to(device))
        rows.append(F.one_hot(tokens, tokenizer.codes).float().mean(dim=1).sqrt().cpu())
    return torch.cat(rows)
