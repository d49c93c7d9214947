"""A discrete variational autoencoder to train on one's own images (section 2.1, eq. 1).

An encoder of strided convolutions scores K codes per position; in training the codes are sampled
by Gumbel-softmax, in use the best one is taken; a decoder of transposed convolutions paints the
image from the code vectors. The strides are the prime factors of the total stride, so that any
patch size has a matching token grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, distributed, nn

from beit.config.tokenizer import DiscreteVAEConfig
from beit.rng import SampleRNG
from beit.tokenizers.base import VisualTokenizer, best_codes, count_codes
from beit.tokenizers.dalle import from_logit_laplace, to_logit_laplace


class Reconstruction(NamedTuple):
    """Code scores, and the decoder's output: one value per pixel, or location and log scale."""

    logits: Float[Tensor, "batch codes h w"]
    output: Float[Tensor, "batch outputs height width"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a 1x1 one, added to the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Float[Tensor, "batch width h w"]) -> Float[Tensor, "batch width h w"]:
        out: Tensor = x + self.body(x)
        return out


def prime_factors(stride: int) -> list[int]:
    """The strides of the single layers, largest first: 8 = 2 * 2 * 2, 14 = 7 * 2."""
    factors, divisor = [], 2
    while stride > 1:
        while stride % divisor == 0:
            factors.append(divisor)
            stride //= divisor
        divisor += 1
    return factors[::-1]


class DiscreteVAE(VisualTokenizer):
    """The trainable tokenizer; `forward` is for its training, `encode` and `decode` for its use."""

    config: DiscreteVAEConfig
    usage: Tensor
    _counts: Tensor

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__(config)
        factors = prime_factors(config.stride)
        widths = [
            max(config.width >> (len(factors) - 1 - layer), min(config.narrowest, config.width))
            for layer in range(len(factors))
        ]
        encoder: list[nn.Module] = []
        channels = config.channels
        for factor, width in zip(factors, widths, strict=True):
            # Kernel and padding make the output exactly 1/factor of the input, with overlap.
            encoder += [nn.Conv2d(channels, width, factor + 2, factor, padding=1), nn.ReLU()]
            channels = width
        encoder += [ResidualBlock(channels) for _ in range(config.blocks)]
        self.encoder = nn.Sequential(*encoder)
        self.to_codes = nn.Conv2d(channels, config.codes, 1)
        self.codebook = nn.Parameter(torch.randn(config.codes, config.codebook_width))
        decoder: list[nn.Module] = [nn.Conv2d(config.codebook_width, channels, 1)]
        decoder += [ResidualBlock(channels) for _ in range(config.blocks)]
        for layer in reversed(range(len(factors))):
            factor, width = factors[layer], widths[max(layer - 1, 0)]
            decoder += [
                nn.ConvTranspose2d(channels, width, factor + 2, factor, padding=1),
                nn.ReLU(),
            ]
            channels = width
        outputs = config.channels * (2 if config.likelihood == "logit-laplace" else 1)
        decoder.append(nn.Conv2d(channels, outputs, 1))
        self.decoder = nn.Sequential(*decoder)
        # Running frequency of each code, which shows the dead ones; uniform at first.
        self.register_buffer("usage", torch.full((config.codes,), 1 / config.codes))
        # What this process counted since the last update of `usage`.
        self.register_buffer("_counts", torch.zeros(config.codes), persistent=False)
        with torch.no_grad():
            self.codebook.div_(math.sqrt(config.codebook_width))

    def target(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """What encoder and decoder work on: [0, 1] mapped to [-1, 1], or as DALL-E maps it."""
        if self.config.likelihood == "logit-laplace":
            return to_logit_laplace(pixels)
        return 2 * pixels - 1

    def _image(
        self, output: Float[Tensor, "batch outputs height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        if self.config.likelihood == "logit-laplace":
            return from_logit_laplace(output[:, : self.config.channels])
        return ((output + 1) / 2).clamp(0, 1)

    def forward(
        self,
        pixels: Float[Tensor, "batch channels height width"],
        temperature: float,
        rng: SampleRNG,
    ) -> Reconstruction:
        """Reconstruct images through sampled codes.

        Args:
            pixels: Images in [0, 1].
            temperature: Of the Gumbel-softmax; the lower, the nearer to a choice of one code.
            rng: Draws the Gumbel noise of each image.
        """
        logits = self.to_codes(self.encoder(self.target(pixels)))
        scores = logits.float()
        soft = ((scores + rng.gumbel("codes", scores)) / temperature).softmax(dim=1)
        vectors = torch.einsum("bkhw,kd->bdhw", soft.to(self.codebook.dtype), self.codebook)
        return Reconstruction(logits, self.decoder(vectors))

    def _vectors(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches features"]:
        pixels = self.target(pixels).to(self.precision, memory_format=torch.channels_last)
        vectors: Tensor = self.encoder(pixels)
        return vectors.permute(0, 2, 3, 1).flatten(1, 2)

    def _best(self, rows: Float[Tensor, "rows features"]) -> Int64[Tensor, " rows"]:
        return best_codes(rows, self.to_codes.weight.flatten(1), self.to_codes.bias)

    def _scores(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows codes"]:
        return F.linear(rows, self.to_codes.weight.flatten(1), self.to_codes.bias)

    def _trunk(self) -> Iterable[nn.Module]:
        return (self.encoder,)

    def _decode(
        self, tokens: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        vectors = F.embedding(tokens, self.codebook).permute(0, 3, 1, 2)
        return self._image(self.decoder(vectors))

    @torch.no_grad()
    def observe(self, logits: Float[Tensor, "batch codes h w"]) -> None:
        """Count the codes that these scores choose."""
        self._counts += count_codes(logits.argmax(dim=1).flatten(), self.codes)

    @torch.no_grad()
    def update_usage(self, decay: float) -> None:
        """Move the running frequency of each code towards what all processes counted since the last
        update."""
        if distributed.is_initialized():
            distributed.all_reduce(self._counts)
        seen = self._counts.sum()
        moved = self.usage.lerp(self._counts / seen, 1 - decay)
        self.usage.copy_(torch.where(seen > 0, moved, self.usage))
        self._counts.zero_()

    @torch.no_grad()
    def revive(self, generator: torch.Generator, threshold: float = 0.02) -> int:
        """Split the busiest codes in two to replace dead ones; return how many were replaced.

        A code is dead when its running frequency is below `threshold` of the uniform one. It
        becomes a slightly disturbed copy of a busy code, in encoder and decoder, and both start
        with half of the busy code's frequency. At most half of the codes move at once, busiest
        first.
        """
        dead = torch.nonzero(self.usage < threshold / self.codes).flatten()
        order = self.usage.argsort(descending=True)
        count = min(len(dead), self.codes - len(dead))
        if count == 0:
            return 0
        dead, busy = dead[:count], order[:count]
        for tensor in (self.to_codes.weight, self.codebook):
            noise = torch.randn(tensor[busy].shape, generator=generator).to(tensor.device)
            tensor[dead] = tensor[busy] + 0.05 * tensor.std() * noise
        if self.to_codes.bias is not None:
            self.to_codes.bias[dead] = self.to_codes.bias[busy]
        self.usage[busy] /= 2
        self.usage[dead] = self.usage[busy]
        return count
