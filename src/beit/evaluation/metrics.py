"""Numbers that say how good predictions are."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def confusion_matrix(
    predicted: Int64[Tensor, " images"], targets: Int64[Tensor, " images"], classes: int
) -> Int64[Tensor, "classes classes"]:
    """How many images of each true class (row) were called which class (column)."""
    cells = torch.bincount(targets * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)


def top_k_hits(
    logits: Float[Tensor, "images classes"], targets: Int64[Tensor, " images"], k: int
) -> int:
    """Images whose true class is among the k best; with fewer classes than k, all are."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return int((best == targets[:, None]).any(dim=1).sum())


def calibration_error(
    confidences: Float[Tensor, " images"], right: Bool[Tensor, " images"], bins: int = 15
) -> float:
    """Expected calibration error: the gap of confidence and accuracy, averaged over the images.

    Bins of equal width, each closed above (Guo et al., arXiv:1706.04599, equation 3).
    """
    places = (confidences.double() * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, places, confidences.double() - right.double())
    return float(gaps.abs().sum() / len(right))
