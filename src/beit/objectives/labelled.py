"""What every objective of labelled images does to a batch on the device: erasing, then mixing."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from beit.batch import LabelledBatch
from beit.config.data import AugmentConfig
from beit.models.heads import Classifier
from beit.models.vit import Images
from beit.objectives.base import Objective
from beit.objectives.mixing import Mixing


class Inputs(NamedTuple):
    """What the model is given, and what it should answer: as the batch has it, or mixed."""

    images: Images
    targets: (
        Int64[Tensor, " batch"] | Bool[Tensor, "batch classes"] | Float[Tensor, "batch classes"]
    )


class LabelledObjective(Objective[LabelledBatch]):
    """A classifier learns from labelled images; `smoothing` is 0 while it is evaluated."""

    model: Classifier

    def __init__(self, model: Classifier, augment: AugmentConfig, *, classes: int) -> None:
        # Here, as timm takes seconds to import.
        from timm.data.random_erasing import RandomErasing

        super().__init__()
        self.model = model
        self._smoothing = augment.smoothing
        self._erase = (
            RandomErasing(augment.erasing, mode="pixel", device="cpu") if augment.erasing else None
        )
        self._mix = Mixing(mixup=augment.mixup, cutmix=augment.cutmix, classes=classes)

    @property
    def smoothing(self) -> float:
        """Label smoothing of the next batch."""
        return self._smoothing if self.training else 0.0

    def inputs(self, batch: LabelledBatch) -> Inputs:
        """The batch, in training with parts erased and neighbours mixed."""
        if not self.training:
            return Inputs(batch.images, batch.targets)
        images = self._augmented(batch.images)
        if self._mix and len(images) > 1:
            return Inputs(*self._mix(images, batch.targets, self.chance))
        return Inputs(images, batch.targets)

    def _augmented(self, images: Images) -> Float[Tensor, "batch channels height width"]:
        pixels = self.model.backbone.normalise(images)
        if self._erase is not None:
            self._erase.device = str(pixels.device)
            pixels = pixels.clone()
            for row, image in enumerate(pixels):
                self.chance.seed_global(row)
                self._erase(image)
        return pixels
