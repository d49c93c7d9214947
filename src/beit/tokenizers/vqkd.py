"""The tokenizer of BEiT v2: codes that carry what a teacher sees (BEiT v2, section 2.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from beit.config.tokenizer import VQKDConfig
from beit.errors import ConfigError
from beit.tokenizers.base import Pixels
from beit.tokenizers.quantised import QuantisedTokenizer


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
