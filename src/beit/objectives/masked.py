"""Masked image modeling: the objective of BEiT (sections 2.3 and 2.4).

The backbone is given the whole picture, with a mask token in the place of each hidden patch, and
the head predicts the visual tokens of the hidden patches, and of nothing else. A model with patch
aggregation predicts them twice, and the two cross-entropies are added (BEiT v2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from beit.batch import MaskedBatch
from beit.config.hidden import MaskedConfig
from beit.models.heads import MaskedImageModel
from beit.objectives.hidden import HiddenPatchPrediction
from beit.tokenizers.bank import TokenBank
from beit.tokenizers.base import VisualTokenizer


class MaskedImageModeling(HiddenPatchPrediction):
    """Predict the visual tokens of the masked patches; the ablations of table 4 by config."""

    model: MaskedImageModel

    def __init__(
        self,
        model: MaskedImageModel,
        config: MaskedConfig,
        tokenizer: VisualTokenizer | None,
        precision: torch.dtype = torch.float32,
        bank: TokenBank | None = None,
    ) -> None:
        super().__init__(model, config, tokenizer, precision, bank)
        self.config = config

    @property
    def predicts_all(self) -> bool:
        """Whether visible patches are predicted, too (ablation of table 4)."""
        return self.config.predict == "all"

    def predictions(self, batch: MaskedBatch) -> Sequence[Float[Tensor, "rows outputs"]]:
        """One, and with patch aggregation a second of the same."""
        return self.model.predictions(batch.images, batch.mask, self.predicts_all)
