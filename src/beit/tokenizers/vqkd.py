"""The tokenizer of BEiT v2: codes that carry what a teacher sees (BEiT v2, section 2.2).

A ViT encodes each patch into a short vector, the nearest code takes its place, and a shallow ViT
rebuilds the teacher's features from the codes. Modules are named as in the published files, but for
the norms that end encoder and decoder (there `encoder.fc_norm` and `decoder.fc_norm`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.config.tokenizer import VQKDConfig
from beit.errors import ConfigError
from beit.models.layers import layer_norm
from beit.models.vit import draw
from beit.tokenizers.base import Pixels, VisualTokenizer
from beit.tokenizers.codebook import CosineCodebook


class Distilled(NamedTuple):
    """The teacher's features as rebuilt from codes, and what the codes cost."""

    features: Float[Tensor, "batch patches teacher_width"]
    """To be compared with the teacher's by their cosine."""
    commitment: Float[Tensor, ""]
    tokens: Int64[Tensor, "batch patches"]


def task_layer(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, tanh, linear; drawn as the rest of the released model."""
    first, last = nn.Linear(inputs, inputs), nn.Linear(inputs, outputs)
    for linear in (first, last):
        draw(linear.weight, cut=False)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(first, nn.Tanh(), last)


class VQKDTokenizer(VisualTokenizer):
    """Encoder, codebook and decoder. It rebuilds features, not pictures.

    `forward` is for its training, with `quantize.update` and `quantize.revive` between two steps;
    `encode` and `features` are for its use.
    """

    config: VQKDConfig
    paints = False

    def __init__(self, config: VQKDConfig) -> None:
        super().__init__(config)
        self.encoder = config.encoder.build()
        self.encoder_norm = layer_norm(config.width)
        self.encode_task_layer = task_layer(config.width, config.codebook_width)
        self.quantize = CosineCodebook(
            codes=config.codes, width=config.codebook_width, decay=config.codebook_decay
        )
        self.decoder = config.decoder.build()
        self.decoder_norm = layer_norm(config.width)
        self.decode_task_layer = task_layer(config.width, config.teacher_width)

    def forward(self, pixels: Float[Tensor, "batch channels height width"]) -> Distilled:
        """Rebuild the teacher's features of pictures in [0, 1]; training moves the codebook."""
        vectors = self._vectors(pixels)
        codes, tokens, commitment = self.quantize(vectors.flatten(0, 1))
        features = self._rebuild(codes.reshape(vectors.shape), pixels)
        return Distilled(features, commitment, tokens.reshape(vectors.shape[:2]))

    @torch.no_grad()
    def features(self, images: Pixels) -> Float[Tensor, "batch patches teacher_width"]:
        """The teacher's features of the pictures, rebuilt from their tokens, in float32."""
        with torch.autocast(images.device.type, enabled=False):
            pixels = self.pixels(images)
            vectors = self._vectors(pixels)
            tokens = self.quantize.nearest(vectors.flatten(0, 1)).reshape(vectors.shape[:2])
            return self._rebuild(self.quantize.embedding.weight[tokens], pixels)

    def _vectors(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches code_width"]:
        """What is quantised; in float32, as ties between codes are narrow."""
        patches = self.encoder((2 * pixels - 1).to(self.precision)).patches
        with torch.autocast(pixels.device.type, enabled=False):
            vectors: Tensor = self.encode_task_layer(self.encoder_norm(patches.float()))
        return vectors

    def _rebuild(
        self,
        codes: Float[Tensor, "batch patches code_width"],
        pixels: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch patches teacher_width"]:
        """The decoder's answer to codes that lie on the patch grid of these pictures."""
        grid = [side // self.config.patch for side in pixels.shape[2:]]
        patches = self.decoder(codes.transpose(1, 2).unflatten(2, grid)).patches
        features: Tensor = self.decode_task_layer(self.decoder_norm(patches))
        return features

    def _scores(self, rows: Float[Tensor, "rows code_width"]) -> Float[Tensor, "rows codes"]:
        return self.quantize.cosines(rows)

    def _trunk(self) -> Iterable[nn.Module]:
        return (self.encoder,)

    def _decode(
        self, tokens: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        raise ConfigError(
            "a VQ-KD tokenizer rebuilds the features of its teacher, not pictures",
            remedy="ask for `features`, or look at pictures through a discrete VAE",
        )
