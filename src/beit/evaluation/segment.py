"""Scores of a segmenter: intersection over union, accuracies, and the matrix behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from beit.batch import SegmentedBatch
from beit.config.segment_run import IGNORE, InferenceConfig
from beit.evaluation.metrics import confusion_matrix
from beit.models.segmenter import Segmenter
from beit.models.sliding import label_map


class SegmentationScores(NamedTuple):
    """Scores of a confusion matrix of pixels (rows: true class), fractions in [0, 1].

    Matrices of parts of the images add up to that of all: take the scores of the sum, since a mean
    of the parts' scores differs from them.
    """

    confusion: Int64[Tensor, "classes classes"]

    @property
    def iou(self) -> Float[Tensor, " classes"]:
        """Intersection over union of each class; nan for one neither in the masks nor predicted."""
        hits = self.confusion.diagonal().double()
        return hits / (self.confusion.sum(0) + self.confusion.sum(1) - hits)

    @property
    def accuracy(self) -> Float[Tensor, " classes"]:
        """Fraction of each class's pixels that are right; nan for a class not in the masks."""
        return self.confusion.diagonal().double() / self.confusion.sum(1)

    @property
    def occurs(self) -> Bool[Tensor, " classes"]:
        """Which classes are in the masks."""
        return self.confusion.sum(1) > 0

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that are in the masks or predicted, as in mmsegmentation and
        torchmetrics; the IoU of a class that is only predicted is 0."""
        return float(self.iou.nanmean())

    @property
    def mean_iou_of_masks(self) -> float:
        """Mean IoU over the classes that are in the masks."""
        return float(self.iou[self.occurs].mean())

    @property
    def mean_accuracy(self) -> float:
        """Mean accuracy over the classes that are in the masks."""
        return float(self.accuracy.nanmean())

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of all pixels that are right."""
        return float(self.confusion.diagonal().sum().double() / self.confusion.sum())

    @property
    def answered(self) -> Int64[Tensor, " classes"]:
        """For each class, how many pixels were given it."""
        return self.confusion.sum(0)

    @property
    def scored(self) -> int:
        """Number of classes that `mean_iou` is the mean of."""
        return int((~self.iou.isnan()).sum())


def pixel_confusion(
    predicted: UInt8[Tensor, "height width"], labels: UInt8[Tensor, "height width"], classes: int
) -> Int64[Tensor, "classes classes"]:
    """How many pixels of each true class (row) were given which class (column).

    Args:
        predicted: Class given to each pixel.
        labels: The mask; pixels with IGNORE are not counted.
        classes: Number of classes.
    """
    counted = labels != IGNORE
    return confusion_matrix(predicted[counted].long(), labels[counted].long(), classes)


def score_segmenter(
    segmenter: Segmenter,
    batches: Iterable[SegmentedBatch],
    inference: InferenceConfig,
    *,
    batch: int = 8,
) -> SegmentationScores:
    """Score a segmenter in one pass over whole images.

    Args:
        segmenter: In evaluation mode.
        batches: Images with masks.
        inference: Windows and scales at which images are read.
        batch: Windows that go through the model at a time.
    """
    confusion = torch.zeros(segmenter.classes, segmenter.classes, dtype=torch.int64)
    for images in batches:
        for image, labels in zip(images.images, images.labels, strict=True):
            predicted = label_map(segmenter, image, inference, batch=batch).cpu()
            confusion += pixel_confusion(predicted, labels, segmenter.classes)
    return SegmentationScores(confusion)
