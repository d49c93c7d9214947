"""Metrics of given predictions: counts, calibration, average precision."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from beit.config.runs import ThresholdConfig

UNDECIDED = 0.5
"""The threshold of a label that no image has."""
DEVIATIONS = 1.96
"""Standard deviations on either side of the mean that 95 % of a normal distribution lie within."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_float32(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Switch autocast off in a function of features on the CPU, whatever the model's precision."""

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch.autocast("cpu", enabled=False):
            return function(*args, **kwargs)

    return run


def fraction_right(answers: Int64[Tensor, " images"], targets: Int64[Tensor, " images"]) -> float:
    """The accuracy of these answers."""
    return float((answers == targets).float().mean())


def wilson_interval(fraction: float, count: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy on `count` independent images (Wilson, 1927), in [0, 1]."""
    square = DEVIATIONS**2 / count
    middle = fraction + square / 2
    half = DEVIATIONS * math.sqrt(fraction * (1 - fraction) / count + square / (4 * count))
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def one_answer(
    names: Sequence[str],
    answered: Int64[Tensor, " classes"],
    total: Int64[Tensor, " classes"],
    what: str,
) -> str:
    """What to report if a model gives everything the same class, though several occur; else "".

    Args:
        names: Names of the classes.
        answered: How often each class was the answer.
        total: How often each class was right.
        what: What gets a class: image or pixel.
    """
    given = answered.nonzero().flatten().tolist()
    if len(given) != 1 or int((total > 0).sum()) < 2:
        return ""
    return (
        f"every {what} is answered with '{names[given[0]]}': the model does not tell the classes "
        "apart; train it longer, with another learning rate, or from a pre-trained model"
    )


def confusion_matrix(
    predicted: Int64[Tensor, " images"], targets: Int64[Tensor, " images"], classes: int
) -> Int64[Tensor, "classes classes"]:
    """How many images of each true class (row) were given which class (column).

    Args:
        predicted: Class given to each image.
        targets: True class of each image.
        classes: Number of classes.
    """
    cells = torch.bincount(targets * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes)


def top_k_hits(
    logits: Float[Tensor, "images classes"], targets: Int64[Tensor, " images"], k: int
) -> int:
    """How many images have their true class among the k best.

    Args:
        logits: Or probabilities: only their order matters.
        targets: True class of each image.
        k: Number of answers; if there are fewer classes, every image is a hit.
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return int((best == targets[:, None]).any(dim=1).sum())


def calibration_error(
    confidences: Float[Tensor, " images"], right: Bool[Tensor, " images"], bins: int = 15
) -> float:
    """Expected calibration error: the gap between confidence and accuracy, averaged over images.

    Bins of equal width, each closed above (Guo et al., arXiv:1706.04599, equation 3).

    Args:
        confidences: Probability of the answer to each image.
        right: Whether that answer was correct.
        bins: Number of bins.
    """
    places = (confidences.double() * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, places, confidences.double() - right.double())
    return float(gaps.abs().sum() / len(right))


def average_precision(
    scores: Float[Tensor, "images classes"], targets: Bool[Tensor, "images classes"]
) -> Float[Tensor, " classes"]:
    """Average precision of each label; NaN for a label that no image has.

    The sum over all distinct scores s, from the largest down, of (R(s) - R(s')) P(s): P and R are
    precision and recall when every image with a score of at least s is given the label, and s' is
    the score before s. Nothing is interpolated, and images with the same score count as one step,
    so that their order cannot matter: the definition of scikit-learn and torchmetrics, and that of
    PASCAL VOC from 2010 on without its interpolation.
    """

    def measure(steps: _Steps) -> float:
        if not steps.found[-1]:
            return torch.nan
        gained = steps.found.diff(prepend=steps.found.new_zeros(1))
        return float((gained.double() * steps.found / steps.given).sum() / steps.found[-1])

    columns = zip(scores.double().T, targets.T, strict=True)
    return torch.tensor([measure(_steps(*column)) for column in columns], dtype=torch.float64)


def best_thresholds(
    probabilities: Float[Tensor, "images classes"],
    targets: Bool[Tensor, "images classes"],
    rule: ThresholdConfig | None = None,
) -> tuple[float, ...]:
    """The probability from which each label counts, chosen on these images.

    It lies halfway between the two neighbouring probabilities that it separates; of equally good
    thresholds the largest is taken. It is 0.5 for a label that no image has. Where no threshold
    reaches the precision that is required, the one of the highest precision is taken.

    Args:
        probabilities: Independent probabilities of the labels.
        targets: Which labels each image has.
        rule: What the threshold is chosen for; by default the best F1.
    """
    rule = rule or ThresholdConfig()

    def best(steps: _Steps) -> float:
        if not steps.found[-1]:
            return UNDECIDED
        precision, recall = steps.found.double() / steps.given, steps.found / steps.found[-1]
        worth = 2 * steps.found.double() / (steps.given + steps.found[-1])
        if rule.threshold_by == "recall":  # the most precise that is complete enough
            worth = (recall >= rule.threshold_level).double()
        elif rule.threshold_by == "precision":  # the most complete that is precise enough
            enough = precision >= rule.threshold_level
            worth = torch.where(enough, 1 + recall, precision)
        place = int(worth.argmax())  # the first of equal ones
        below = steps.scores[place + 1] if place + 1 < len(steps.scores) else 0.0
        return float((steps.scores[place] + below) / 2)

    columns = zip(probabilities.double().T, targets.T, strict=True)
    return tuple(best(_steps(*column)) for column in columns)


class _Steps(NamedTuple):
    """One row per distinct score, from the largest down; counts are cumulative."""

    scores: Float[Tensor, " steps"]
    found: Int64[Tensor, " steps"]
    """Images with the label among those with at least this score."""
    given: Int64[Tensor, " steps"]
    """Images with at least this score."""


def _steps(scores: Float[Tensor, " images"], targets: Bool[Tensor, " images"]) -> _Steps:
    ranked, order = scores.sort(descending=True)
    last = torch.ones_like(targets)
    last[:-1] = ranked[1:] != ranked[:-1]
    given = torch.arange(1, len(ranked) + 1)
    return _Steps(ranked[last], targets[order].cumsum(dim=0)[last], given[last])
