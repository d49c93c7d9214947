"""Classification: cross-entropy, with mixed pictures and softened labels (section 2.6)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from beit.batch import LabelledBatch
from beit.config.data import AugmentConfig
from beit.models.heads import Classifier
from beit.models.vit import Images
from beit.objectives.base import Loss, Objective
from beit.objectives.mixing import Mixing


class Classification(Objective[LabelledBatch]):
    """Cross-entropy of a classifier. What concerns several pictures happens here, on the device:
    erasing, then mixup or cutmix."""

    model: Classifier

    def __init__(self, model: Classifier, augment: AugmentConfig, *, classes: int) -> None:
        # Here, as timm takes seconds to import.
        from timm.data.random_erasing import RandomErasing

        super().__init__()
        self.model = model
        self.smoothing = augment.smoothing
        self._classes = classes
        self._erase = (
            RandomErasing(augment.erasing, mode="pixel", device="cpu") if augment.erasing else None
        )
        self._mix = Mixing(mixup=augment.mixup, cutmix=augment.cutmix, classes=classes)

    def _augmented(self, images: Images) -> Float[Tensor, "batch channels height width"]:
        pixels = self.model.backbone.normalise(images)
        if self._erase is not None:
            self._erase.device = str(pixels.device)
            pixels = pixels.clone()
            for row, picture in enumerate(pixels):
                self.chance.seed_global(row)
                self._erase(picture)
        return pixels

    def forward(self, batch: LabelledBatch, progress: float) -> Loss:
        images: Tensor = batch.images
        targets: Tensor = batch.targets
        if self.training:
            images = self._augmented(batch.images)
            if self._mix and len(targets) > 1:
                images, targets = self._mix(images, targets, self.chance)
        logits = self.model(images).float()
        smoothing = self.smoothing if self.training else 0.0
        total = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        hits = (logits.detach().argmax(dim=-1) == batch.targets).float()
        return Loss(total, {"loss": total.detach(), "accuracy": hits.mean()})

    def expectations(self) -> dict[str, float]:
        return {"chance_loss": math.log(self._classes)}
