"""Visible-only prediction: an objective beside that of BEiT, for less work per step.

The targets are those of masked image modeling. But the backbone is given the visible patches alone,
and a light decoder predicts the masked ones (`models/visible.py`).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from beit.batch import MaskedBatch
from beit.config.masking import VisibleConfig
from beit.masked_patches import MaskedPatches
from beit.models.visible import VisibleOnlyModel
from beit.objectives.masked import MaskedImageModeling


class VisibleOnlyPrediction(MaskedImageModeling):
    """Predict the visual tokens of masked patches, which the backbone never sees."""

    model: VisibleOnlyModel

    def predict(
        self, batch: MaskedBatch, masked: MaskedPatches
    ) -> tuple[Float[Tensor, "rows outputs"], ...]:
        return (self.model(batch.images, masked),)

    def pixels(self, batch: MaskedBatch) -> Float[Tensor, "batch patches values"]:
        """With `normalise_patches` by the mean and deviation of the patch's own values (MAE)."""
        patches = super().pixels(batch)
        assert isinstance(self.config, VisibleConfig)
        if not self.config.normalise_patches:
            return patches
        mean, variance = patches.mean(dim=2, keepdim=True), patches.var(dim=2, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()

    def publish(self, model: nn.Module) -> nn.Module:
        """The backbone alone."""
        assert isinstance(model, VisibleOnlyModel)
        return model.strip_decoder()
