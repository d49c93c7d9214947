"""Accuracy, likelihood and calibration, against hand counts and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from beit.batch import LabelledBatch
from beit.evaluation.classify import answering_among, score_classifier
from beit.evaluation.metrics import calibration_error
from beit.models.heads import flip_averaged

CPU = torch.device("cpu")
CLASSES = 7


@pytest.fixture
def batch():
    """Images that are their own logits."""
    targets = torch.randint(CLASSES, (200,))
    return LabelledBatch(2 * torch.randn(200, CLASSES), targets, ())


def score(batch, **options):
    return score_classifier(nn.Identity(), [batch], classes=CLASSES, device=CPU, **options)


def test_scores_equal_a_plain_loop(batch):
    scores = score(batch)
    right = batch.images.argmax(dim=1) == batch.targets
    for name in range(CLASSES):
        chosen = batch.targets == name
        assert scores.total[name] == chosen.sum()
        assert scores.right[name] == right[chosen].sum()
    fractions = [float(right[batch.targets == name].double().mean()) for name in range(CLASSES)]
    assert scores.mean_per_class == pytest.approx(sum(fractions) / CLASSES, abs=1e-12)
    five = [int(t) in row.argsort(descending=True)[:5] for row, t in zip(*batch[:2], strict=True)]
    assert scores.top5 == pytest.approx(sum(five) / 200)


def test_classes_that_do_not_occur_have_no_part_in_the_mean():
    scores = score(LabelledBatch(torch.eye(CLASSES)[[1, 1, 2, 0]], torch.tensor([1, 1, 2, 2]), ()))
    assert scores.mean_per_class == pytest.approx(0.75)


def test_any_of_the_accepted_classes_is_right():
    logits = torch.tensor([[3.0, 2, 1, 0, 0, 0, 0], [3, 2, 1, 0, 0, 0, 0]])
    batch = LabelledBatch(logits, torch.tensor([1, 0]), ())
    scores = score(batch, accepted=[(1, 2), (0, 4)])
    odds = logits[0].softmax(dim=0)
    expected = -(math.log(odds[0] + odds[4]) + math.log(odds[1] + odds[2])) / 2
    assert (scores.top1, scores.top5) == (0.5, 1.0)
    assert scores.loss == pytest.approx(expected, abs=1e-6)
    assert scores.right.tolist() == [1, 0, 0, 0, 1, 0, 0]
    assert scores.total.tolist() == [1, 1, 1, 0, 1, 0, 0]


def test_calibration_equals_a_plain_loop(batch):
    confidence, answer = batch.images.softmax(dim=1).max(dim=1)
    right = (answer == batch.targets).double()
    expected = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            gap = (confidence[inside].mean() - right[inside].mean()).abs()
            expected += float(inside.double().mean() * gap)
    assert score(batch).calibration_error == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("confidences", "right", "expected"),
    [
        ([0.9, 0.9], [True, False], 0.4),
        ([1.0, 1.0], [True, True], 0.0),
        ([0.0, 1.0], [True, True], 0.5),
    ],
)
def test_calibration_by_hand(confidences, right, expected):
    pair = torch.tensor(confidences, dtype=torch.float64).float(), torch.tensor(right)
    assert calibration_error(*pair) == pytest.approx(expected, abs=1e-6)


def test_bins_are_closed_above():
    confidences, right = torch.tensor([0.25, 0.26]), torch.tensor([True, False])
    assert calibration_error(confidences, right, bins=4) == pytest.approx((0.75 + 0.26) / 2)


def test_flipping_averages_probabilities():
    class Edge(nn.Module):
        """Logits from the left border: other ones for the mirror image."""

        def forward(self, images):
            return images[:, 0, :, 0].float()

    images = 3 * torch.randn(4, 3, 5, 6)
    views = [Edge()(images).softmax(dim=1), Edge()(images.flip(3)).softmax(dim=1)]
    averaged = flip_averaged(Edge())(images).softmax(dim=1)
    assert torch.allclose(averaged, (views[0] + views[1]) / 2, atol=1e-6)
    assert not torch.allclose(averaged, views[0], atol=1e-2)


def test_restricted_answers_are_a_softmax_over_those_classes():
    logits = torch.randn(5, CLASSES)
    odds = answering_among(nn.Identity(), [1, 4])(logits).softmax(dim=1)
    assert torch.equal(odds[:, [0, 2, 3, 5, 6]], torch.zeros(5, 5))
    assert torch.allclose(odds[:, [1, 4]], logits[:, [1, 4]].softmax(dim=1))
