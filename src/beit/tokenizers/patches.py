"""Tokens in seconds: each patch gets the nearest of K codes, which come from k-means or at random.

What is compared is not learned: pixels, histograms of oriented gradients (HOG), which as a target
of masked prediction come close to learned features (MaskFeat, arXiv:2112.09133, table 2), or a
random projection (BEST-RQ).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.config.tokenizer import ORIENTATIONS, PatchCodebookConfig, RandomProjectionConfig
from beit.errors import ConfigError
from beit.tokenizers.base import VisualTokenizer
from beit.tokenizers.codebook import CosineCodebook
from beit.tokenizers.vq import Rebuilt, paint

FLAT = {"pixels": 2.0, "gradients": 0.2}
"""The constant among the compared values, about a quarter of their usual length. It gives patches
that show nothing one direction, and keeps something of the length of the others in theirs."""
STROKE = 6.0
"""Darkness of a stroke for a gradient of one per pixel."""


def oriented_gradients(
    pixels: Float[Tensor, "batch channels height width"], patch: int
) -> Float[Tensor, "batch patches values"]:
    """Mean gradient magnitudes by orientation, in the four quarters of each patch.

    At each pixel the channel with the steepest gradient counts (HOG, section 6.3).
    """
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    magnitude, channel = across.hypot(down).max(dim=1, keepdim=True)
    angle = torch.atan2(down.gather(1, channel), across.gather(1, channel)) % math.pi
    bins = (angle * (ORIENTATIONS / math.pi)).long().clamp(max=ORIENTATIONS - 1)
    batch, _, height, width = pixels.shape
    maps = pixels.new_zeros(batch, ORIENTATIONS, height, width).scatter_(1, bins, magnitude)
    quarters = F.adaptive_avg_pool2d(maps, (2 * height // patch, 2 * width // patch))
    return F.unfold(quarters, kernel_size=2, stride=2).transpose(1, 2)


def strokes(gradients: Float[Tensor, "codes values"], patch: int) -> Float[Tensor, "codes pixels"]:
    """Draw oriented gradients as dark strokes on white along their edges: one patch for each code,
    of one channel, in [-1, 1]."""
    places = (torch.arange(patch, device=gradients.device) + 0.5) / patch
    quarter = (2 * places).long()
    offset = places - (2 * quarter + 1) / 4
    angles = (torch.arange(ORIENTATIONS, device=gradients.device) + 0.5) * math.pi / ORIENTATIONS
    across, down = (turned[:, None, None] for turned in (angles.cos(), angles.sin()))
    distance = (across * offset + down * offset[:, None]).abs()  # from a line through the middle
    bars = (-((10 * distance) ** 2)).exp()
    strengths = gradients.reshape(-1, ORIENTATIONS, 2, 2)[:, :, quarter][..., quarter]
    ink = (STROKE * strengths * bars).sum(dim=1).clamp(0, 1)
    return (1 - 2 * ink).flatten(1)


class PatchCodebook(VisualTokenizer):
    """k-means on the sphere, over the compared values of each patch and a constant.

    `forward` is for its training, with `quantize.update` and `quantize.revive` between two steps;
    the only weights are the patches that are painted for the codes.
    """

    config: PatchCodebookConfig

    def __init__(self, config: PatchCodebookConfig) -> None:
        super().__init__(config)
        self.quantize = CosineCodebook(
            codes=config.codes, width=config.codebook_width, decay=config.codebook_decay
        )
        self.painted = nn.Embedding(config.codes, config.outputs)
        nn.init.zeros_(self.painted.weight)

    def forward(self, pixels: Float[Tensor, "batch channels height width"]) -> Rebuilt:
        """The patches painted for the codes, where [-1, 1] stands for [0, 1]; in training the
        codebook notes the vectors."""
        vectors = self._vectors(pixels)
        _, tokens, commitment = self.quantize(vectors.flatten(0, 1))
        tokens = tokens.reshape(vectors.shape[:2])
        return Rebuilt(self.painted(tokens), commitment, tokens)

    def without_decay(self) -> frozenset[str]:
        """The painted patches do not decay, as each is a mean."""
        return frozenset({"painted.weight"})

    def _vectors(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches code_width"]:
        patch, compared = self.config.patch, self.config.compared
        if compared == "gradients":
            values = oriented_gradients(pixels, patch)
        else:
            values = F.unfold(2 * pixels - 1, kernel_size=patch, stride=patch).transpose(1, 2)
        return F.pad(values, (0, 1), value=FLAT[compared])

    def _scores(self, rows: Float[Tensor, "rows code_width"]) -> Float[Tensor, "rows codes"]:
        return self.quantize.cosines(rows)

    def _trunk(self) -> Iterable[nn.Module]:
        return ()

    def _decode(
        self, tokens: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        return paint(self.painted(tokens.flatten(1)), tokens.shape[1:], self.config.patch)

    @torch.no_grad()
    def draw(
        self, tokens: Int64[Tensor, "batch patches"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Gradients as strokes along edges, as the mean patch of such a code is grey."""
        if self.config.compared != "gradients":
            return self.decode(tokens)
        codes = self.quantize.embedding.weight
        constant = codes[:, -1:].clamp(min=1e-3) / FLAT["gradients"]
        drawn = strokes(codes[:, :-1] / constant, self.config.patch)
        return paint(drawn.repeat(1, self.config.channels)[tokens], self.grid, self.config.patch)


class RandomProjection(VisualTokenizer):
    """Projects patches of normalised images by a random matrix (Xavier's uniform draw), and takes
    the code at the smallest angle (arXiv:2202.01855, eq. 1). Matrix and codes are drawn once."""

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
