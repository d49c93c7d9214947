"""Classification: cross-entropy, with mixed images and softened labels (section 2.6)."""

from __future__ import annotations

import math

import torch.nn.functional as F

from beit.batch import LabelledBatch
from beit.config.data import AugmentConfig
from beit.models.heads import Classifier
from beit.objectives.base import Loss
from beit.objectives.labelled import LabelledObjective


class Classification(LabelledObjective):
    """Cross-entropy of a classifier whose images have one class each."""

    def __init__(self, model: Classifier, augment: AugmentConfig, *, classes: int) -> None:
        super().__init__(model, augment, classes=classes)
        self._classes = classes

    def forward(self, batch: LabelledBatch, progress: float) -> Loss:
        images, targets = self.inputs(batch)
        logits = self.model(images).float()
        total = F.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        hits = (logits.detach().argmax(dim=-1) == batch.targets).float()
        return Loss(total, {"loss": total.detach(), "accuracy": hits.mean()})

    def expectations(self) -> dict[str, float]:
        return {"chance_loss": math.log(self._classes)}
