"""Scores of a classifier: with one class per image, and with several labels per image."""

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
"""Collects a value from every process that reads a part of the images, in order of the parts."""


class Scores(NamedTuple):
    """Scores of a classifier: fractions in [0, 1], and means over the images."""

    top1: float
    top5: float
    loss: float
    """Negative log-likelihood in nats; where several classes are right, that of any of them."""
    calibration_error: float
    """Expected calibration error of the top answer, with 15 bins of equal width."""
    images: int
    right: Int64[Tensor, " classes"]
    """For each class, how many of the images it is right for were answered correctly."""
    total: Int64[Tensor, " classes"]
    """For each class, how many images it is right for."""
    answered: Int64[Tensor, " classes"]
    """For each class, how many images it was the top answer to."""

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
    """Score a classifier in one pass over labelled images, or over this process's part of them.

    Args:
        model: In evaluation mode, on `device`.
        batches: This process's images; a target is a class or, with `accepted`, an index into it.
        classes: Number of classes of the model.
        device: Where the model runs.
        accepted: Sets of classes, any one of which is right for an image.
        gather: Collects what every process found, so that each returns the scores of all images.
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
    """The model with the logits of all other classes at -inf, so that it answers with `classes`."""

    def logits(images: Tensor) -> Float[Tensor, "batch classes"]:
        every: Tensor = model(images)
        kept = torch.full_like(every, -torch.inf)
        kept[:, list(classes)] = every[:, list(classes)]
        return kept

    return logits


class LabelAnswers(NamedTuple):
    """The logits of a multi-label model for some images, and the labels they have."""

    logits: Float[Tensor, "images classes"]
    targets: Bool[Tensor, "images classes"]

    @property
    def probabilities(self) -> Float[Tensor, "images classes"]:
        """Independent probability of each label, in float32 as when the model is used."""
        return self.logits.sigmoid()


class LabelScores(NamedTuple):
    """Scores of each label, NaN for labels that no image has, and of all labels together."""

    average_precision: Float[Tensor, " classes"]
    f1: Float[Tensor, " classes"]
    """F1 at the thresholds."""
    support: Int64[Tensor, " classes"]
    """How many images have the label."""
    thresholds: tuple[float, ...]
    micro_f1: float
    """F1 of all decisions together, including those on labels that no image has."""
    loss: float
    """Mean binary cross-entropy in nats."""
    images: int

    @property
    def mean_average_precision(self) -> float:
        """Mean over the labels that some image has; each label counts the same."""
        return float(self.average_precision.nanmean())

    @property
    def chance_average_precision(self) -> float:
        """What random answers would score: the mean frequency of the same labels."""
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
    """Run a multi-label model over labelled images, or over this process's part of them.

    Args:
        model: In evaluation mode, on `device`.
        batches: This process's images; targets are bool [batch, classes].
        device: Where the model runs; the answers are on the CPU.
        gather: Collects what every process found, so that each returns the answers of all images.
    """
    own = [(model(batch.images.to(device)).float().cpu(), batch.targets) for batch in batches]
    rows = [row for part in gather(own) for row in part]
    assert rows, "an evaluation needs at least one image"
    logits, targets = (torch.cat(column) for column in zip(*rows, strict=True))
    return LabelAnswers(logits, targets)


def score_labels(answers: LabelAnswers, thresholds: tuple[float, ...]) -> LabelScores:
    """Score the answers; a label is given if its probability reaches its threshold."""
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
