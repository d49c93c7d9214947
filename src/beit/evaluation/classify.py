"""How well a classifier does: top-1, top-5, likelihood, calibration, and each class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from beit.batch import LabelledBatch
from beit.evaluation.metrics import calibration_error

Logits = Callable[[UInt8[Tensor, "batch channels height width"]], Tensor]


class Scores(NamedTuple):
    """Shares in [0, 1] and means over the images."""

    top1: float
    top5: float
    loss: float
    """Negative log-likelihood in nats: of any of the right classes, where there are several."""
    calibration_error: float
    """Expected calibration error of the first answer, 15 bins of equal width."""
    images: int
    right: Int64[Tensor, " classes"]
    """Of the images that a class is right for, how many were answered rightly."""
    total: Int64[Tensor, " classes"]
    """How many images a class is right for."""

    @property
    def mean_per_class(self) -> float:
        """Accuracy averaged over the classes that occur."""
        occurs = self.total > 0
        return float((self.right[occurs].double() / self.total[occurs]).mean())


@torch.no_grad()
def score_classifier(
    model: Logits,
    batches: Iterable[LabelledBatch],
    *,
    classes: int,
    device: torch.device,
    accepted: Sequence[tuple[int, ...]] | None = None,
) -> Scores:
    """One pass over labelled images; the model should be in evaluation mode.

    A target is a class or, with `accepted`, the number of a set of classes of which any is right.
    """
    right, total = torch.zeros(2, classes, dtype=torch.int64)
    columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for batch in batches:
        log_odds = model(batch.images.to(device)).float().log_softmax(dim=1).cpu()
        allowed = _allowed(batch.targets, classes, accepted)
        confidence, ranked = log_odds.topk(min(5, classes), dim=1)
        hits = allowed.gather(1, ranked)
        loss = -log_odds.masked_fill(~allowed, -torch.inf).logsumexp(dim=1)
        columns.append((hits[:, 0], hits.any(dim=1), loss, confidence[:, 0].exp()))
        right += allowed[hits[:, 0]].sum(dim=0)
        total += allowed.sum(dim=0)
    assert columns, "an evaluation needs at least one image"
    first, five, losses, confidences = (torch.cat(column) for column in zip(*columns, strict=True))
    return Scores(
        top1=float(first.double().mean()),
        top5=float(five.double().mean()),
        loss=float(losses.double().mean()),
        calibration_error=calibration_error(confidences, first),
        images=len(first),
        right=right,
        total=total,
    )


def _allowed(
    targets: Int64[Tensor, " batch"], classes: int, accepted: Sequence[tuple[int, ...]] | None
) -> Bool[Tensor, "batch classes"]:
    allowed = torch.zeros(len(targets), classes, dtype=torch.bool)
    for row, target in enumerate(targets.tolist()):
        allowed[row, [target] if accepted is None else list(accepted[target])] = True
    return allowed


def flip_averaged(model: Logits) -> Logits:
    """Logits of the mean of the probabilities of an image and of its mirror image."""

    def logits(images: Tensor) -> Tensor:
        views = torch.stack([model(images), model(images.flip(-1))]).float()
        return views.log_softmax(dim=-1).logsumexp(dim=0)

    return logits


def answering_among(model: Logits, classes: Sequence[int]) -> Logits:
    """Logits with which only some classes can be answered."""

    def logits(images: Tensor) -> Float[Tensor, "batch classes"]:
        every: Tensor = model(images)
        kept = torch.full_like(every, -torch.inf)
        kept[:, list(classes)] = every[:, list(classes)]
        return kept

    return logits
