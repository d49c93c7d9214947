"""Metrics on cases counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from beit.batch import LabelledBatch
from beit.evaluation.classify import score_classifier
from beit.evaluation.metrics import confusion_matrix, one_answer, top_k_hits, wilson_interval
from beit.objectives.base import entropy

LOGITS = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [3.0, 1.0, 2.0]])
TARGETS = torch.tensor([0, 0, 2, 2])


@pytest.mark.parametrize(("k", "hits"), [(1, 1), (2, 2), (3, 4), (5, 4)])
def test_top_k(k, hits):
    assert top_k_hits(LOGITS, TARGETS, k) == hits


def test_confusion_has_the_true_class_in_rows():
    matrix = confusion_matrix(LOGITS.argmax(dim=1), TARGETS, 3)
    assert matrix.tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("answered", "total", "reported"),
    [([0, 9], [5, 4], True), ([0, 9], [0, 9], False), ([1, 8], [5, 4], False)],
)
def test_one_answer_to_everything_is_reported(answered, total, reported):
    found = one_answer(("disc", "tile"), torch.tensor(answered), torch.tensor(total), "image")
    assert found.startswith("every image is answered with 'tile'") == reported
    assert bool(found) == reported


def test_entropy():
    assert float(entropy(torch.tensor([1.0, 1.0, 0.0, 2.0]))) == pytest.approx(1.5 * math.log(2))
    assert float(entropy(torch.zeros(3))) == 0


@pytest.mark.parametrize("size", [1, 3, 4])
def test_scores_do_not_depend_on_the_batches(size):
    batches = [
        LabelledBatch(LOGITS[start : start + size], TARGETS[start : start + size], ())
        for start in range(0, 4, size)
    ]
    scores = score_classifier(nn.Identity(), batches, classes=3, device=torch.device("cpu"))
    assert (scores.top1, scores.top5, scores.images) == (0.25, 1.0, 4)
    expected = -LOGITS.log_softmax(dim=1)[range(4), TARGETS].mean()
    assert scores.loss == pytest.approx(float(expected))
    assert scores.right.tolist() == [1, 0, 0]
    assert scores.total.tolist() == [2, 0, 2]


@pytest.mark.parametrize("count", [10, 254, 4000])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_a_wilson_interval_bounds_what_is_compatible(fraction, count):
    """At its ends the observed fraction lies 1.96 standard errors away."""
    low, high = wilson_interval(fraction, count)
    assert -1e-12 <= low <= fraction + 1e-12
    assert fraction - 1e-12 <= high <= 1 + 1e-12
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            error = math.sqrt(end * (1 - end) / count)
            assert abs(fraction - end) == pytest.approx(1.96 * error)
