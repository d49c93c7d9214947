"""Semantic segmentation: cross-entropy of each pixel, through both heads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from beit.batch import SegmentedBatch
from beit.config.segment_run import IGNORE
from beit.models.segmenter import Segmenter
from beit.models.upernet import resize
from beit.objectives.base import Loss, Objective


def pixel_loss(
    logits: Float[Tensor, "batch classes rows columns"],
    labels: UInt8[Tensor, "batch height width"],
    weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy over all pixels, in float32.

    Ignored pixels add nothing but count in the mean (mmsegmentation's `avg_non_ignore` false, as
    the published models were trained): so a mask without a label costs nothing, and micro-batches
    of any content add up to their batch.

    Args:
        logits: Of any size; they are resized to that of the labels.
        labels: Class of each pixel; `IGNORE` for none.
        weights: Of each class, by which its pixels count; None for 1.
    """
    full = resize(logits.float(), labels.shape[-2:])
    total = F.cross_entropy(full, labels.long(), weights, ignore_index=IGNORE, reduction="sum")
    return total / labels.numel()


class Segmentation(Objective[SegmentedBatch]):
    """The loss of the main head plus the weighted loss of the auxiliary one."""

    model: Segmenter
    weights: Tensor | None

    def __init__(
        self,
        model: Segmenter,
        *,
        auxiliary_weight: float,
        weights: Float[Tensor, " classes"] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weights", weights, persistent=False)
        self._auxiliary_weight = auxiliary_weight

    def forward(self, batch: SegmentedBatch, progress: float) -> Loss:
        predictions = self.model.logits(batch.images)
        total = pixel_loss(predictions.main, batch.labels, self.weights)
        terms = {"loss": total.detach(), "accuracy": _accuracy(predictions.main, batch.labels)}
        if predictions.auxiliary is not None:
            auxiliary = pixel_loss(predictions.auxiliary, batch.labels, self.weights)
            terms["auxiliary_loss"] = auxiliary.detach()
            total = total + self._auxiliary_weight * auxiliary
        return Loss(total, terms)

    def expectations(self) -> dict[str, float]:
        return {"chance_loss": math.log(self.model.classes)}


@torch.no_grad()
def _accuracy(
    logits: Float[Tensor, "batch classes rows columns"], labels: UInt8[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Fraction of the labelled pixels that are right, at the size of the logits."""
    rows, columns = logits.shape[-2:]
    small = F.interpolate(labels[:, None].float(), size=(rows, columns), mode="nearest-exact")[:, 0]
    hits = (logits.argmax(dim=1) == small).sum()
    return hits / (small != IGNORE).sum().clamp_min(1)
