"""Multi-label classification: binary cross-entropy of each label, mixed and softened likewise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from beit.batch import LabelledBatch
from beit.config.data import AugmentConfig
from beit.models.heads import Classifier
from beit.objectives.base import Loss
from beit.objectives.labelled import LabelledObjective


class MultiLabelClassification(LabelledObjective):
    """Binary cross-entropy of a classifier whose images have any number of labels.

    The mean over images and labels, in float32. Mixup and cutmix blend the targets as they blend
    the images. Label smoothing s draws every target towards one half: t (1 - s) + s / 2, which for
    a choice of two is what `F.cross_entropy` does.
    """

    def __init__(
        self,
        model: Classifier,
        augment: AugmentConfig,
        *,
        prevalence: Float[Tensor, " classes"],
    ) -> None:
        """`prevalence` is the fraction of the training images that have each label."""
        super().__init__(model, augment, classes=len(prevalence))
        self._prevalence = prevalence

    def forward(self, batch: LabelledBatch, progress: float) -> Loss:
        images, targets = self.inputs(batch)
        logits: Tensor = self.model(images).float()
        smoothed = _smoothed(targets.float(), self.smoothing)
        total = F.binary_cross_entropy_with_logits(logits, smoothed)
        right = ((logits.detach() >= 0) == batch.targets).float()
        return Loss(total, {"loss": total.detach(), "labels_right": right.mean()})

    def expectations(self) -> dict[str, float]:
        """The training loss of who always answers how frequent each label is."""
        frequent = _smoothed(self._prevalence, self._smoothing)
        entropy = torch.special.entr(frequent) + torch.special.entr(1 - frequent)
        return {"chance_loss": float(entropy.mean())}


def _smoothed(
    targets: Float[Tensor, "*batch classes"], smoothing: float
) -> Float[Tensor, "*batch classes"]:
    return targets * (1 - smoothing) + smoothing / 2
