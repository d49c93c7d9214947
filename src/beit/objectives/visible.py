"""Visible-only prediction: an objective beside that of BEiT, for less work per step.

The targets are those of masked image modeling, visual tokens or pixels of the hidden patches. But
the backbone is given the visible patches alone, and a light decoder predicts (`models/visible.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from beit.batch import MaskedBatch
from beit.models.visible import VisibleOnlyModel
from beit.objectives.hidden import HiddenPatchPrediction


class VisibleOnlyPrediction(HiddenPatchPrediction):
    """Predict the visual tokens of hidden patches, which the backbone never sees."""

    model: VisibleOnlyModel

    def predictions(self, batch: MaskedBatch) -> Sequence[Float[Tensor, "rows outputs"]]:
        """One."""
        return (self.model(batch.images, batch.mask),)

    def publish(self, model: nn.Module) -> nn.Module:
        """What becomes the artifact of the model, or of its average: the backbone alone."""
        assert isinstance(model, VisibleOnlyModel)
        return model.bare()
