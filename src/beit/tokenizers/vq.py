"""Quantised tokenizers: a ViT encoder, a codebook, a shallow ViT decoder (BEiT v2, section 2.2).

The encoder turns each patch into a short vector, the nearest code takes its place, and the decoder
rebuilds from the codes the features of a teacher (VQ-KD) or the pixels (VQ). Modules are named as
in the published files, but for the norms that end encoder and decoder (there `encoder.fc_norm` and
`decoder.fc_norm`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.config.tokenizer import QuantisedConfig, VQConfig, VQKDConfig
from beit.errors import ConfigError
from beit.models.layers import layer_norm
from beit.models.vit import VisionTransformer, draw
from beit.tokenizers.base import Pixels, VisualTokenizer
from beit.tokenizers.codebook import CosineCodebook


class Rebuilt(NamedTuple):
    """What the decoder makes of the codes, and what the codes cost."""

    values: Float[Tensor, "batch patches outputs"]
    commitment: Float[Tensor, ""]
    tokens: Int64[Tensor, "batch patches"]


def task_layer(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, tanh, linear; initialised like the rest of the released model."""
    first, last = nn.Linear(inputs, inputs), nn.Linear(inputs, outputs)
    for linear in (first, last):
        draw(linear.weight, cut=False)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(first, nn.Tanh(), last)


class QuantisedTokenizer(VisualTokenizer):
    """Encoder, codebook and decoder.

    `forward` is for its training, with `quantize.update` and `quantize.revive` between two steps.
    """

    config: QuantisedConfig

    def __init__(self, config: QuantisedConfig) -> None:
        super().__init__(config)
        self.encoder = VisionTransformer(config.encoder)
        self.encoder_norm = layer_norm(config.width)
        self.encode_task_layer = task_layer(config.width, config.codebook_width)
        self.quantize = CosineCodebook(
            codes=config.codes, width=config.codebook_width, decay=config.codebook_decay
        )
        self.decoder = VisionTransformer(config.decoder)
        self.decoder_norm = layer_norm(config.width)
        self.decode_task_layer = task_layer(config.width, config.outputs)

    def forward(self, pixels: Float[Tensor, "batch channels height width"]) -> Rebuilt:
        """Rebuild the target of images in [0, 1] from their codes; in training the codebook notes
        the vectors."""
        vectors = self._vectors(pixels)
        codes, tokens, commitment = self.quantize(vectors.flatten(0, 1))
        grid = (pixels.shape[2] // self.config.patch, pixels.shape[3] // self.config.patch)
        values = self._rebuild(codes.reshape(vectors.shape), grid)
        return Rebuilt(values, commitment, tokens.reshape(vectors.shape[:2]))

    def without_decay(self) -> frozenset[str]:
        """Vectors, class tokens and positions of encoder and decoder, as published."""
        vectors = {name for name, parameter in self.named_parameters() if parameter.ndim == 1}
        for part, trunk in (("encoder", self.encoder), ("decoder", self.decoder)):
            vectors |= {f"{part}.{name}" for name in trunk.without_decay()}
        return frozenset(vectors)

    def _vectors(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches code_width"]:
        """What is quantised; in float32, as ties between codes are narrow."""
        patches = self.encoder((2 * pixels - 1).to(self.precision)).patches
        with torch.autocast(pixels.device.type, enabled=False):
            vectors: Tensor = self.encode_task_layer(self.encoder_norm(patches.float()))
        return vectors

    def _rebuild(
        self, codes: Float[Tensor, "batch patches code_width"], grid: tuple[int, int]
    ) -> Float[Tensor, "batch patches outputs"]:
        """The decoder's answer to codes that lie on a grid."""
        patches = self.decoder(codes.transpose(1, 2).unflatten(2, grid)).patches
        values: Tensor = self.decode_task_layer(self.decoder_norm(patches))
        return values

    def _scores(self, rows: Float[Tensor, "rows code_width"]) -> Float[Tensor, "rows codes"]:
        return self.quantize.cosines(rows)

    def _trunk(self) -> Iterable[nn.Module]:
        return (self.encoder,)


def paint(
    values: Float[Tensor, "batch patches outputs"], grid: Sequence[int], patch: int
) -> Float[Tensor, "batch channels height width"]:
    """Images in [0, 1] from the values of their patches.

    Args:
        values: In [-1, 1], row by row, as `patchify` orders them.
        grid: Rows and columns of patches.
        patch: Side of a patch in pixels.
    """
    height, width = grid
    size = (height * patch, width * patch)
    painted = F.fold(values.transpose(1, 2), size, kernel_size=patch, stride=patch)
    return ((painted + 1) / 2).clamp(0, 1)


class VQTokenizer(QuantisedTokenizer):
    """Like VQ-KD, but its decoder paints each patch, where [-1, 1] stands for [0, 1]."""

    config: VQConfig

    def _decode(
        self, tokens: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        height, width = tokens.shape[1:]
        values = self._rebuild(self.quantize.embedding.weight[tokens.flatten(1)], (height, width))
        return paint(values, (height, width), self.config.patch)


class VQKDTokenizer(QuantisedTokenizer):
    """It rebuilds the features of a teacher, to be compared by their cosine, and no images."""

    config: VQKDConfig
    can_decode = False

    @torch.no_grad()
    def features(self, images: Pixels) -> Float[Tensor, "batch patches teacher_width"]:
        """The teacher's features of the images, rebuilt from their tokens, in float32."""
        with torch.autocast(images.device.type, enabled=False):
            pixels = self.pixels(images)
            tokens = self.encode(images)
            grid = (pixels.shape[2] // self.config.patch, pixels.shape[3] // self.config.patch)
            return self._rebuild(self.quantize.embedding.weight[tokens], grid)

    def _decode(
        self, tokens: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        raise ConfigError(
            "a VQ-KD tokenizer rebuilds the features of its teacher, not images",
            remedy="ask for `features`, or look at images through a discrete VAE",
        )
