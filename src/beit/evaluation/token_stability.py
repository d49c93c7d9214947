"""How steady the tokens of a tokenizer are, and how much its vocabulary says about an image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from beit.batch import ImageBatch
from beit.tokenizers.base import VisualTokenizer


class Steadiness(NamedTuple):
    """Shares of places that keep their token."""

    flips: float
    """When the image is mirrored left to right, and the tokens back."""
    crops: float
    """When the first row and column of places are cut off, and so their neighbours see less."""


@torch.no_grad()
def steadiness(
    tokenizer: VisualTokenizer, batches: Iterable[ImageBatch], *, device: torch.device
) -> Steadiness:
    """One pass over images of the tokenizer's size, which has at least 2 x 2 places."""
    stride, (height, width) = tokenizer.config.downsampling, tokenizer.grid
    mirrored = cut = whole = inner = 0
    for batch in batches:
        images = batch.images.to(device)
        tokens = tokenizer.encode(images).reshape(-1, height, width)
        again = tokenizer.encode(images.flip(3)).reshape(-1, height, width).flip(2)
        mirrored += int((again == tokens).sum())
        whole += tokens.numel()
        part = tokenizer.encode(images[:, :, stride:, stride:].contiguous())
        kept = tokens[:, 1:, 1:]
        cut += int((part.reshape(kept.shape) == kept).sum())
        inner += kept.numel()
    assert whole, "steadiness needs at least one image"
    return Steadiness(flips=mirrored / whole, crops=cut / inner)


@torch.no_grad()
def token_histograms(
    tokenizer: VisualTokenizer, batches: Iterable[ImageBatch], *, device: torch.device
) -> Float[Tensor, "images codes"]:
    """The square roots of each image's shares of the codes, whose cosine is their overlap."""
    rows = []
    for batch in batches:
        tokens = tokenizer.encode(batch.images.to(device))
        rows.append(F.one_hot(tokens, tokenizer.codes).float().mean(dim=1).sqrt().cpu())
    return torch.cat(rows)
