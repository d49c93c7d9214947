"""Our scores equal those of torchmetrics, an implementation by others.

Its confusion matrix is checked too, so scikit-learn, which would only be there for that one, is
not needed. torchmetrics is imported by the tests that use it, since that takes seconds.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from beit.batch import LabelledBatch
from beit.config.segment_run import IGNORE
from beit.evaluation.classify import score_classifier
from beit.evaluation.metrics import calibration_error, confusion_matrix, top_k_hits
from beit.evaluation.segment import SegmentationScores, pixel_confusion

CLASSES = 9
ABSENT = 4
"""Occurs in no truth, though it is answered; the last class is neither."""


@pytest.fixture
def answered():
    """Logits that are right about half the time, and the truth."""
    seen = torch.tensor([name for name in range(CLASSES - 1) if name != ABSENT])
    targets = seen[torch.randint(len(seen), (500,))]
    logits = 1.5 * torch.randn(500, CLASSES)
    logits[range(500), targets] += 2
    logits[:, -1] = -9
    return logits, targets


@pytest.fixture
def painted():
    """Labels of pixels, some of them ignored, and a prediction that is mostly right."""
    seen = torch.tensor([name for name in range(CLASSES - 1) if name != ABSENT])
    labels = seen[torch.randint(len(seen), (60, 70))].to(torch.uint8)
    chance = torch.randint(CLASSES - 1, (60, 70)).to(torch.uint8)
    predicted = torch.where(torch.rand(60, 70) < 0.6, labels, chance)
    labels[torch.rand(60, 70) < 0.2] = IGNORE
    return predicted, labels


def test_classification(answered):
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_calibration_error,
        multiclass_confusion_matrix,
    )

    logits, targets = answered
    pairs = zip(logits.split(300), targets.split(300), strict=True)
    batches = [LabelledBatch(*pair, ()) for pair in pairs]
    found = score_classifier(nn.Identity(), batches, classes=CLASSES, device=torch.device("cpu"))
    for k, fraction in ((1, found.top1), (5, found.top5)):
        theirs = multiclass_accuracy(logits, targets, CLASSES, average="micro", top_k=k)
        assert fraction == pytest.approx(float(theirs), abs=1e-6)
        assert top_k_hits(logits, targets, k) / 500 == pytest.approx(float(theirs), abs=1e-6)
    theirs = multiclass_accuracy(logits, targets, CLASSES, average=None)
    occurs = found.total > 0
    assert occurs.tolist() == [name not in (ABSENT, CLASSES - 1) for name in range(CLASSES)]
    torch.testing.assert_close(
        (found.right / found.total)[occurs], theirs[occurs], atol=1e-6, rtol=0
    )
    assert found.mean_per_class == pytest.approx(float(theirs[occurs].mean()), abs=1e-6)
    odds = logits.double().softmax(dim=1)
    theirs = float(multiclass_calibration_error(odds, targets, CLASSES, n_bins=15, norm="l1"))
    assert theirs > 0.05
    assert found.calibration_error == pytest.approx(theirs, abs=1e-6)
    confidence, answer = odds.max(dim=1)
    assert calibration_error(confidence, answer == targets) == pytest.approx(theirs, abs=1e-6)
    matrix = confusion_matrix(logits.argmax(dim=1), targets, CLASSES)
    assert torch.equal(matrix, multiclass_confusion_matrix(logits, targets, CLASSES))


def test_segmentation(painted):
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_confusion_matrix,
        multiclass_jaccard_index,
    )

    predicted, labels = painted
    found = SegmentationScores(pixel_confusion(predicted, labels, CLASSES))
    given = {"preds": predicted.long(), "target": labels.long(), "num_classes": CLASSES,
             "ignore_index": IGNORE}  # fmt: skip
    assert torch.equal(found.confusion, multiclass_confusion_matrix(**given))
    assert found.scored == CLASSES - 1
    iou = multiclass_jaccard_index(**given, average=None).double()
    assert found.iou[ABSENT] == iou[ABSENT] == 0
    assert found.iou[-1].isnan()
    torch.testing.assert_close(found.iou[:-1], iou[:-1], atol=1e-6, rtol=0)
    theirs = float(multiclass_jaccard_index(**given, average="macro"))  # of classes that are seen
    assert found.mean_iou == pytest.approx(theirs, abs=1e-6)
    occurring = [float(value) for at, value in enumerate(iou[:-1]) if at != ABSENT]
    assert found.mean_iou_of_masks == pytest.approx(sum(occurring) / len(occurring), abs=1e-6)
    accuracy = multiclass_accuracy(**given, average=None).double()
    occurs = [name for name in range(CLASSES - 1) if name != ABSENT]
    assert found.accuracy[[ABSENT, -1]].isnan().all()
    torch.testing.assert_close(found.accuracy[occurs], accuracy[occurs], atol=1e-6, rtol=0)
    assert found.mean_accuracy == pytest.approx(float(accuracy[occurs].mean()), abs=1e-6)
    theirs = float(multiclass_accuracy(**given, average="micro"))
    assert found.pixel_accuracy == pytest.approx(theirs, abs=1e-6)
