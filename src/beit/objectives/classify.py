"""Classification (section 2.6): one class per image, or any number of labels.

On the device parts of the training images are erased, then neighbours are mixed; the targets are
mixed alike, and smoothed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from beit.batch import LabelledBatch
from beit.config.data import AugmentConfig
from beit.models.heads import Classifier
from beit.models.vit import Images
from beit.objectives.base import Loss, Objective
from beit.objectives.mixing import Mixing


class Inputs(NamedTuple):
    """Images for the model and their targets: as in the batch, or mixed."""

    images: Images
    targets: (
        Int64[Tensor, " batch"] | Bool[Tensor, "batch classes"] | Float[Tensor, "batch classes"]
    )


class LabelledObjective(Objective[LabelledBatch]):
    """A classifier that learns from labelled images."""

    model: Classifier

    def __init__(self, model: Classifier, augment: AugmentConfig, *, classes: int) -> None:
        from timm.data.random_erasing import RandomErasing  # here, as the import takes seconds

        super().__init__()
        self.model = model
        self._classes = classes
        self._smoothing = augment.smoothing
        self._erase = (
            RandomErasing(augment.erasing, mode="pixel", device="cpu") if augment.erasing else None
        )
        self._mix = Mixing(mixup=augment.mixup, cutmix=augment.cutmix, classes=classes)

    @property
    def smoothing(self) -> float:
        """Label smoothing of the next batch; none in an evaluation."""
        return self._smoothing if self.training else 0.0

    def inputs(self, batch: LabelledBatch) -> Inputs:
        """The batch; in training with parts erased and neighbours mixed."""
        if not self.training:
            return Inputs(batch.images, batch.targets)
        images = self.model.backbone.normalise(batch.images)
        if self._erase is not None:
            self._erase.device = str(images.device)
            images = images.clone()
            for row, image in enumerate(images):
                self.rng.seed_global(row)
                self._erase(image)
        if self._mix and len(images) > 1:
            return Inputs(*self._mix(images, batch.targets, self.rng))
        return Inputs(images, batch.targets)


class Classification(LabelledObjective):
    """Cross-entropy of a classifier whose images have one class each; classes may have weights.

    The loss is the mean over the images of the weighted sum over the classes. For class ids
    `F.cross_entropy` would divide by the weights in the batch instead, and the size of
    micro-batches would change the result.
    """

    weights: Tensor | None

    def __init__(
        self,
        model: Classifier,
        augment: AugmentConfig,
        *,
        classes: int,
        weights: Float[Tensor, " classes"] | None = None,
    ) -> None:
        super().__init__(model, augment, classes=classes)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, batch: LabelledBatch, progress: float) -> Loss:
        images, targets = self.inputs(batch)
        logits = self.model(images).float()
        if self.weights is not None and targets.ndim == 1:
            targets = F.one_hot(targets, self._classes).float()
        total = F.cross_entropy(
            logits, targets, weight=self.weights, label_smoothing=self.smoothing
        )
        hits = (logits.detach().argmax(dim=-1) == batch.targets).float()
        return Loss(total, {"loss": total.detach(), "accuracy": hits.mean()})

    def expectations(self) -> dict[str, float]:
        smoothed = 1.0 if self.weights is None else float(self.weights.mean())
        weight = 1 - self._smoothing + self._smoothing * smoothed  # on average
        return {"chance_loss": weight * math.log(self._classes)}


class MultiLabelClassification(LabelledObjective):
    """Binary cross-entropy of each label, averaged over images and labels, in float32.

    Mixup and cutmix blend the targets as they blend the images. Label smoothing s moves every
    target towards one half: t (1 - s) + s / 2, which for a choice of two is what `F.cross_entropy`
    does.

    Args:
        model: With one logit per label.
        augment: Erasing, mixing and label smoothing in training.
        prevalence: Fraction of the training images that have each label.
        weights: Of the absence of each label, and of its presence; None for 1.
    """

    absent: Tensor
    present: Tensor

    def __init__(
        self,
        model: Classifier,
        augment: AugmentConfig,
        *,
        prevalence: Float[Tensor, " classes"],
        weights: Float[Tensor, "2 classes"] | None = None,
    ) -> None:
        super().__init__(model, augment, classes=len(prevalence))
        self._prevalence = prevalence
        weights = torch.ones(2, len(prevalence)) if weights is None else weights
        self.register_buffer("absent", weights[0], persistent=False)
        self.register_buffer("present", weights[1], persistent=False)

    def forward(self, batch: LabelledBatch, progress: float) -> Loss:
        images, targets = self.inputs(batch)
        logits: Tensor = self.model(images).float()
        wanted = smooth_labels(targets.float(), self.smoothing)
        weight = torch.lerp(self.absent, self.present, wanted)
        total = F.binary_cross_entropy_with_logits(
            logits, wanted * self.present / weight, weight=weight
        )
        right = ((logits.detach() >= 0) == batch.targets).float()
        return Loss(total, {"loss": total.detach(), "labels_right": right.mean()})

    def expectations(self) -> dict[str, float]:
        """The weighted training loss of always predicting the frequency of each label."""
        frequent = smooth_labels(self._prevalence, self._smoothing)
        here = frequent * self.present.cpu()
        both = here + (1 - frequent) * self.absent.cpu()
        answer = here / both
        entropy = torch.special.entr(answer) + torch.special.entr(1 - answer)
        return {"chance_loss": float((both * entropy).mean())}


def smooth_labels(
    targets: Float[Tensor, "*batch classes"], smoothing: float
) -> Float[Tensor, "*batch classes"]:
    """Targets in [0, 1], moved towards one half."""
    return targets * (1 - smoothing) + smoothing / 2
