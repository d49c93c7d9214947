"""Several labels per image: average precision, thresholds and F1, against definitions."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from beit.batch import LabelledBatch
from beit.config.runs import ThresholdConfig
from beit.evaluation.classify import LabelAnswers, answer_labels, score_labels
from beit.evaluation.metrics import average_precision, best_thresholds
from beit.models.heads import flip_averaged


def answers(seed: int, images: int = 60, classes: int = 5, ties: bool = False) -> LabelAnswers:
    """Logits that say something of the labels, of which the last never occurs."""
    chance = torch.Generator().manual_seed(seed)
    targets = torch.rand(images, classes, generator=chance) < torch.linspace(0.6, 0.1, classes)
    targets[:, -1] = False
    logits = torch.randn(images, classes, generator=chance) + targets.float()
    return LabelAnswers(logits.round() if ties else logits, targets)


def by_definition(scores: np.ndarray, targets: np.ndarray) -> float:
    """Written from the words: every different score in turn is the threshold."""
    total, before = 0.0, 0.0
    for score in sorted(set(scores), reverse=True):
        given = scores >= score
        recall = (given & targets).sum() / targets.sum()
        total += (recall - before) * (given & targets).sum() / given.sum()
        before = recall
    return total


@pytest.fixture(scope="module")
def reference():
    """Of torchmetrics, which takes seconds to import."""
    return importlib.import_module("torchmetrics.functional.classification")


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_the_definition_and_of_torchmetrics(seed, ties, reference):
    logits, targets = answers(seed, ties=ties)
    found = average_precision(logits, targets)
    theirs = reference.multilabel_average_precision(
        logits[:, :4].sigmoid(), targets[:, :4].long(), num_labels=4, average=None
    )
    assert math.isnan(found[-1])
    for label in range(4):
        exact = by_definition(logits[:, label].numpy(), targets[:, label].numpy())
        assert float(found[label]) == pytest.approx(exact, abs=1e-12)
        assert float(found[label]) == pytest.approx(float(theirs[label]), abs=1e-6)


def test_the_order_of_images_does_not_matter_where_scores_are_equal():
    logits, targets = answers(0, ties=True)
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        average_precision(logits, targets)[:-1],
        average_precision(logits[order], targets[order])[:-1],
    )


def test_a_perfect_ranking_is_1_and_an_even_answer_the_prevalence():
    targets = torch.tensor([[True], [False], [True], [False], [False]])
    assert average_precision(targets.float(), targets).tolist() == [1.0]
    assert average_precision(torch.zeros(5, 1), targets).tolist() == pytest.approx([0.4])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_gives_a_better_f1(seed, ties):
    found = answers(seed, images=12, ties=ties)
    thresholds = best_thresholds(found.probabilities, found.targets)
    assert thresholds[-1] == 0.5
    best = score_labels(found, thresholds).f1
    cuts = torch.cat([torch.zeros(1, 5), found.probabilities])  # each parts a label's images anew
    for others in cuts.tolist():
        f1 = score_labels(found, tuple(others)).f1
        assert (f1[:-1] <= best[:-1] + 1e-12).all()
    for label, threshold in enumerate(thresholds[:-1]):
        values = found.probabilities[:, label].double()
        assert (values != threshold).all()  # halfway between two of them
        higher = values[values > threshold].min()
        others = [*thresholds[:label], float(higher) + 1e-9, *thresholds[label + 1 :]]
        assert float(score_labels(found, tuple(others)).f1[label]) < float(best[label])


def test_f1_and_loss_are_those_of_torchmetrics_and_torch(reference):
    found = answers(7)
    thresholds = (0.3, 0.5, 0.4, 0.6, 0.9)
    scores = score_labels(found, thresholds)
    given = (found.probabilities >= torch.tensor(thresholds)).long()
    truth = found.targets.long()
    theirs = reference.multilabel_f1_score(given, truth, num_labels=5, average=None)
    assert scores.f1[:4].tolist() == pytest.approx(theirs[:4].tolist(), abs=1e-6)
    assert math.isnan(scores.f1[4])
    micro = reference.multilabel_f1_score(given, truth, num_labels=5, average="micro")
    assert scores.micro_f1 == pytest.approx(float(micro), abs=1e-6)
    assert scores.macro_f1 == pytest.approx(float(theirs[:4].mean()), abs=1e-6)
    loss = F.binary_cross_entropy(found.probabilities.double(), found.targets.double())
    assert scores.loss == pytest.approx(float(loss), abs=1e-6)
    assert scores.support.tolist() == found.targets.sum(dim=0).tolist()
    prevalence = found.targets[:, :4].double().mean(dim=0)
    assert scores.chance_average_precision == pytest.approx(float(prevalence.mean()))


def test_answers_at_random_score_the_prevalence():
    chance = torch.Generator().manual_seed(0)
    targets = torch.rand(20_000, 2, generator=chance) < torch.tensor([0.3, 0.05])
    found = LabelAnswers(torch.randn(20_000, 2, generator=chance), targets)
    scores = score_labels(found, (0.5, 0.5))
    assert scores.mean_average_precision == pytest.approx(scores.chance_average_precision, abs=0.01)


def test_batches_are_put_together_in_their_order():
    images = torch.arange(5 * 3 * 4 * 4, dtype=torch.uint8).reshape(5, 3, 4, 4)
    targets = torch.tensor(
        [[True, False], [False, False], [True, True], [False, True], [True, True]]
    )
    batches = [
        LabelledBatch(images[:3], targets[:3], ("a", "b", "c")),
        LabelledBatch(images[3:], targets[3:], ("d", "e")),
    ]

    def model(some):
        return some[:, :2, 0, 0].float()

    found = answer_labels(model, batches, torch.device("cpu"))
    assert torch.equal(found.targets, targets)
    assert torch.equal(found.logits, images[:, :2, 0, 0].float())


def test_flips_average_probabilities():
    images = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)

    def model(some):
        return some[:, :2, 0, 0].float() / 20 - 6

    averaged = flip_averaged(model, multi_label=True)(images).sigmoid()
    expected = (model(images).sigmoid() + model(images.flip(-1)).sigmoid()) / 2
    assert torch.allclose(averaged, expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_reach_the_recall_or_precision_that_is_required(seed):
    found = answers(seed, images=40)
    kept = found.targets.any(dim=0)
    for rule, level in (("recall", 0.8), ("precision", 0.6)):
        config = ThresholdConfig(threshold_by=rule, threshold_level=level)
        thresholds = best_thresholds(found.probabilities, found.targets, config)
        for label in kept.nonzero().flatten().tolist():
            values, right = found.probabilities[:, label].double(), found.targets[:, label]

            def reached(cut, values=values, right=right, rule=rule):
                given = values >= cut
                hits = (given & right).sum()
                return float(hits / (right.sum() if rule == "recall" else given.sum()))

            cuts = [float(value) - 1e-12 for value in values]
            enough = [cut for cut in cuts if reached(cut) >= level]
            if not enough:  # of no threshold: the most precise one
                assert reached(thresholds[label]) == max(map(reached, cuts))
                continue
            assert reached(thresholds[label]) >= level
            beyond = max(enough) if rule == "recall" else min(enough)
            same = (values >= thresholds[label]) & right
            assert same.sum() == ((values >= beyond) & right).sum()
