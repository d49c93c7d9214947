"""How well a classifier does: with one class for each image, and with several labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from beit.batch import LabelledBatch
from beit.evaluation.metrics import average_precision, calibration_error
from beit.models.heads import Logits

Gather = Callable[[Any], list[Any]]
"""Gives a value of every process that reads a part of the images, in the order of the parts."""


class Scores(NamedTuple):
    """Fractions in [0, 1] and means over the images."""

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
    answered: Int64[Tensor, " classes"]
    """How many images a class was the first answer to."""

    @property
    def mean_per_class(self) -> float:
        """Accuracy averaged over the classes that occur."""
        occurs = self.total > 0
        return float((self.right[occurs].double() / self.total[occurs]).mean())


def alone(value: Any) -> list[Any]:
    """The `Gather` of a single process."""
    return [value]


@torch.no_grad()
def score_classifier(
    model: Logits,
    batches: Iterable[LabelledBatch],
    *,
    classes: int,
    device: torch.device,
    accepted: Sequence[tuple[int, ...]] | None = None,
    gather: Gather = alone,
) -> Scores:
    """One pass over labelled images, or over this process's part of them; the model should be in
    evaluation mode.

    A target is a class or, with `accepted`, the number of a set of classes of which any is right.
    """
    right, total, answered = torch.zeros(3, classes, dtype=torch.int64)
    columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for batch in batches:
        log_odds = model(batch.images.to(device)).float().log_softmax(dim=1).cpu()
        allowed = torch.zeros(len(batch.targets), classes, dtype=torch.bool)
        for row, target in enumerate(batch.targets.tolist()):
            allowed[row, [target] if accepted is None else list(accepted[target])] = True
        confidence, ranked = log_odds.topk(min(5, classes), dim=1)
        hits = allowed.gather(1, ranked)
        loss = -log_odds.masked_fill(~allowed, -torch.inf).logsumexp(dim=1)
        columns.append((hits[:, 0], hits.any(dim=1), loss, confidence[:, 0].exp()))
        right += allowed[hits[:, 0]].sum(dim=0)
        total += allowed.sum(dim=0)
        answered += ranked[:, 0].bincount(minlength=classes)
    parts = gather((columns, right, total, answered))
    columns = [row for part in parts for row in part[0]]
    right, total, answered = (
        torch.stack([part[at] for part in parts]).sum(dim=0) for at in (1, 2, 3)
    )
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
        answered=answered,
    )


def answering_among(model: Logits, classes: Sequence[int]) -> Logits:
    """Logits with which only some classes can be answered."""

    def logits(images: Tensor) -> Float[Tensor, "batch classes"]:
        every: Tensor = model(images)
        kept = torch.full_like(every, -torch.inf)
        kept[:, list(classes)] = every[:, list(classes)]
        return kept

    return logits


class LabelAnswers(NamedTuple):
    """What a model says of every label of some images, and what is right."""

    logits: Float[Tensor, "images classes"]
    targets: Bool[Tensor, "images classes"]

    @property
    def probabilities(self) -> Float[Tensor, "images classes"]:
        """Independent probabilities, in float32 as they are when the model is used."""
        return self.logits.sigmoid()


class LabelScores(NamedTuple):
    """How well each label is answered; NaN for labels that no image has."""

    average_precision: Float[Tensor, " classes"]
    f1: Float[Tensor, " classes"]
    """At the thresholds."""
    support: Int64[Tensor, " classes"]
    """Images that have the label."""
    thresholds: tuple[float, ...]
    micro_f1: float
    """Of all decisions together, also those for labels that no image has."""
    loss: float
    """Mean binary cross-entropy in nats."""
    images: int

    @property
    def mean_average_precision(self) -> float:
        """Over the labels that some image has; each counts the same."""
        return float(self.average_precision.nanmean())

    @property
    def chance_average_precision(self) -> float:
        """What answering at random scores: how frequent a label is, over the same labels."""
        occurring = self.support[self.support > 0].double()
        return float((occurring / self.images).mean())

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the labels that some image has."""
        return float(self.f1.nanmean())


@torch.no_grad()
def answer_labels(
    model: Logits,
    batches: Iterable[LabelledBatch],
    device: torch.device,
    gather: Gather = alone,
) -> LabelAnswers:
    """One pass over images with their labels, or over this process's part of them; the model should
    be in evaluation mode."""
    own = [(model(batch.images.to(device)).float().cpu(), batch.targets) for batch in batches]
    rows = [row for part in gather(own) for row in part]
    assert rows, "an evaluation needs at least one image"
    logits, targets = (torch.cat(column) for column in zip(*rows, strict=True))
    return LabelAnswers(logits, targets)


def score_labels(answers: LabelAnswers, thresholds: tuple[float, ...]) -> LabelScores:
    """The measures of these answers; a label counts from its threshold on."""
    logits, targets = answers
    selected = answers.probabilities.double() >= torch.tensor(thresholds, dtype=torch.float64)
    support = targets.sum(dim=0)
    both, either = (selected & targets).sum(dim=0), selected.sum(dim=0) + support
    f1 = (2 * both.double() / either).masked_fill(support == 0, torch.nan)
    loss = F.binary_cross_entropy_with_logits(logits.double(), targets.double())
    return LabelScores(
        average_precision=average_precision(logits, targets),
        f1=f1,
        support=support,
        thresholds=thresholds,
        micro_f1=float(2 * both.sum().double() / either.sum().clamp_min(1)),
        loss=float(loss),
        images=len(targets),
    )
