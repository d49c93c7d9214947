"""The health of a tokenizer: how well it paints, and how many of its codes it uses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from beit.batch import ImageBatch
from beit.objectives.base import entropy
from beit.tokenizers.base import VisualTokenizer

COLLAPSED_SHARE = 0.05


class TokenizerHealth(NamedTuple):
    """Measured with the best code per position, as pre-training uses them."""

    psnr: float
    """Peak signal-to-noise ratio of the reconstructions in dB, from the error over all images;
    nan if the tokenizer paints none."""
    codes_in_use: int
    perplexity: float
    """exp of the entropy of the tokens: how many codes are in even use."""
    counts: Tensor
    """How often each code occurred, int64 [K]."""

    @property
    def collapsed(self) -> bool:
        """Fewer than one code in twenty in even use: pre-training would learn next to nothing."""
        return self.perplexity < max(2.0, COLLAPSED_SHARE * len(self.counts))


@torch.no_grad()
def tokenizer_health(
    tokenizer: VisualTokenizer, batches: Iterable[ImageBatch], *, device: torch.device
) -> TokenizerHealth:
    """One pass over images of the tokenizer's size."""
    counts = torch.zeros(tokenizer.codes, dtype=torch.int64)
    error, values = 0.0, 0
    for batch in batches:
        images = batch.images.to(device)
        tokens = tokenizer.encode(images)
        if tokenizer.can_decode:
            painted = tokenizer.decode(tokens)
            error += float((painted - tokenizer.pixels(images)).double().square().sum())
            values += painted.numel()
        counts += torch.bincount(tokens.flatten(), minlength=tokenizer.codes).cpu()
    assert counts.any(), "health needs at least one image"
    return TokenizerHealth(
        psnr=-10 * math.log10(max(error / values, 1e-12)) if values else math.nan,
        codes_in_use=int((counts > 0).sum()),
        perplexity=float(entropy(counts.float()).exp()),
        counts=counts,
    )
