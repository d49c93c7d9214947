"""How well several labels per image are answered: average precision, thresholds, F1."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from beit.batch import LabelledBatch
from beit.evaluation.classify import Logits

UNDECIDED = 0.5
"""The threshold of a label of which no image tells a better one."""


class LabelAnswers(NamedTuple):
    """What a model says of every label of some images, and what is right."""

    logits: Float[Tensor, "images classes"]
    targets: Bool[Tensor, "images classes"]

    @property
    def probabilities(self) -> Float[Tensor, "images classes"]:
        """Independent probabilities, in float32 as they are when the model is used."""
        return self.logits.sigmoid()


class LabelScores(NamedTuple):
    """How well each label is answered; of a label that no image has, `average_precision` is NaN."""

    average_precision: Float[Tensor, " classes"]
    f1: Float[Tensor, " classes"]
    """At the thresholds; NaN for a label that no image has."""
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
    model: Logits, batches: Iterable[LabelledBatch], device: torch.device
) -> LabelAnswers:
    """One pass over images with their labels; the model should be in evaluation mode."""
    rows = [(model(batch.images.to(device)).float().cpu(), batch.targets) for batch in batches]
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


def average_precision(
    scores: Float[Tensor, "images classes"], targets: Bool[Tensor, "images classes"]
) -> Float[Tensor, " classes"]:
    """Average precision of each label; NaN for a label that no image has.

    The sum over all different scores s, from the largest down, of (R(s) - R(s')) P(s): P and R are
    precision and recall when every image with at least the score s is given the label, and s' is
    the score before s. Nothing is interpolated, and images with the same score count as one step,
    so that their order cannot matter: the definition of scikit-learn and torchmetrics, and that of
    PASCAL VOC from 2010 on without its interpolation.
    """
    return _by_label(_average_precision, scores, targets)


def best_thresholds(
    probabilities: Float[Tensor, "images classes"], targets: Bool[Tensor, "images classes"]
) -> tuple[float, ...]:
    """The probability from which each label counts, for the largest F1 on these images.

    It lies halfway between the two neighbouring probabilities that it parts; of equally good ones
    the largest is taken. 0.5 for a label that no image has.
    """
    return tuple(_by_label(_best_threshold, probabilities, targets).tolist())


class _Steps(NamedTuple):
    """One row per different score, from the largest down, counted from the first to it."""

    scores: Float[Tensor, " steps"]
    found: Int64[Tensor, " steps"]
    """Images with the label among those with at least this score."""
    given: Int64[Tensor, " steps"]
    """Images with at least this score."""


def _by_label(
    measure: Callable[[_Steps], float],
    scores: Float[Tensor, "images classes"],
    targets: Bool[Tensor, "images classes"],
) -> Float[Tensor, " classes"]:
    columns = zip(scores.double().T, targets.T, strict=True)
    return torch.tensor([measure(_steps(*column)) for column in columns], dtype=torch.float64)


def _steps(scores: Float[Tensor, " images"], targets: Bool[Tensor, " images"]) -> _Steps:
    ranked, order = scores.sort(descending=True)
    last = torch.ones_like(targets)
    last[:-1] = ranked[1:] != ranked[:-1]
    given = torch.arange(1, len(ranked) + 1)
    return _Steps(ranked[last], targets[order].cumsum(dim=0)[last], given[last])


def _average_precision(steps: _Steps) -> float:
    if not steps.found[-1]:
        return torch.nan
    gained = steps.found.diff(prepend=steps.found.new_zeros(1))
    return float((gained.double() * steps.found / steps.given).sum() / steps.found[-1])


def _best_threshold(steps: _Steps) -> float:
    if not steps.found[-1]:
        return UNDECIDED
    f1 = 2 * steps.found.double() / (steps.given + steps.found[-1])
    best = int(f1.argmax())  # the first of equal ones
    below = steps.scores[best + 1] if best + 1 < len(steps.scores) else 0.0
    return float((steps.scores[best] + below) / 2)


def flip_averaged_labels(model: Logits) -> Logits:
    """Logits of the mean of the probabilities of an image and of its mirror image."""

    def logits(images: Tensor) -> Tensor:
        views = torch.stack([model(images), model(images.flip(-1))]).float()
        present, absent = (F.logsigmoid(sign * views).logsumexp(dim=0) for sign in (1, -1))
        return present - absent

    return logits
