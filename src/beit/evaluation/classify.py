"""How well a classifier does: top-1, top-5, loss and the confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.batch import LabelledBatch
from beit.evaluation.metrics import confusion_matrix, top_k_hits


class Scores(NamedTuple):
    """Shares in [0, 1], the mean loss in nats, and the confusion matrix (rows: true class)."""

    top1: float
    top5: float
    loss: float
    pictures: int
    confusion: Tensor


@torch.no_grad()
def score_classifier(
    model: nn.Module, batches: Iterable[LabelledBatch], *, classes: int, device: torch.device
) -> Scores:
    """One pass over labelled pictures; the model should be in evaluation mode."""
    hits1 = hits5 = pictures = 0
    loss = 0.0
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for batch in batches:
        targets = batch.targets.to(device)
        logits = model(batch.images.to(device)).float()
        loss += float(F.cross_entropy(logits, targets, reduction="sum"))
        hits1 += top_k_hits(logits, targets, 1)
        hits5 += top_k_hits(logits, targets, 5)
        confusion += confusion_matrix(logits.argmax(dim=1), targets, classes).cpu()
        pictures += len(targets)
    assert pictures, "an evaluation needs at least one picture"
    return Scores(hits1 / pictures, hits5 / pictures, loss / pictures, pictures, confusion)
