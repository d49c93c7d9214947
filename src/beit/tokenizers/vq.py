"""A quantised tokenizer without a teacher: its tokens rebuild the pixels of the image."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from beit.config.tokenizer import VQConfig
from beit.tokenizers.quantised import QuantisedTokenizer


class VQTokenizer(QuantisedTokenizer):
    """The parts of VQ-KD; its decoder paints each patch, [0, 1] as [-1, 1]."""

    config: VQConfig

    def _decode(
        self, tokens: Int64[Tensor, "batch h w"]
    ) -> Float[Tensor, "batch channels height width"]:
        height, width = tokens.shape[1:]
        values = self._rebuild(self.quantize.embedding.weight[tokens.flatten(1)], (height, width))
        patch = self.config.patch
        painted = F.fold(
            values.transpose(1, 2), (height * patch, width * patch), kernel_size=patch, stride=patch
        )
        return ((painted + 1) / 2).clamp(0, 1)
