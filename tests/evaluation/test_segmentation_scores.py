"""Scores of segmenters against definitions written as loops."""

from __future__ import annotations

import math

import pytest
import torch

from beit.batch import SegmentedBatch
from beit.config import InferenceConfig, LinearHeadConfig
from beit.evaluation.segment import SegmentationScores, pixel_confusion, score_segmenter
from beit.models.segmenter import Segmenter
from beit.models.sliding import label_map
from miniature import BACKBONE
from reference import disturb

CLASSES = 5


@pytest.fixture
def drawn():
    """Two maps of labels: class 3 occurs in neither, class 4 is only predicted."""
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (20, 30), generator=chance).to(torch.uint8)
    predicted = torch.where(torch.rand(20, 30, generator=chance) < 0.6, labels, 0)
    predicted[0, :7] = 4
    labels[5:9, 5:9] = 255
    return predicted.to(torch.uint8), labels


def test_scores_are_what_their_definitions_say(drawn):
    predicted, labels = drawn
    pairs = [(int(p), int(t)) for p, t in zip(predicted.flatten(), labels.flatten(), strict=True)
             if t != 255]  # fmt: skip
    iou, accuracy = [], []
    for one in range(CLASSES):
        both = sum(p == t == one for p, t in pairs)
        either = sum(one in pair for pair in pairs)
        true = sum(t == one for _, t in pairs)
        iou.append(both / either if either else math.nan)
        accuracy.append(both / true if true else math.nan)
    scores = SegmentationScores(pixel_confusion(predicted, labels, CLASSES))
    assert scores.iou.tolist() == pytest.approx(iou, abs=1e-9, nan_ok=True)
    assert scores.accuracy.tolist() == pytest.approx(accuracy, abs=1e-9, nan_ok=True)
    assert scores.mean_iou_of_masks == pytest.approx(sum(iou[:3]) / 3, abs=1e-9)
    assert scores.mean_iou == pytest.approx((sum(iou[:3]) + iou[4]) / 4, abs=1e-9)
    assert scores.mean_accuracy == pytest.approx(sum(accuracy[:3]) / 3, abs=1e-9)
    right = sum(p == t for p, t in pairs) / len(pairs)
    assert scores.pixel_accuracy == pytest.approx(right, abs=1e-12)
    assert scores.scored == 4


def test_parts_add_up(drawn):
    predicted, labels = drawn
    whole = pixel_confusion(predicted, labels, CLASSES)
    parts = [pixel_confusion(predicted[:, part], labels[:, part], CLASSES)
             for part in (slice(0, 11), slice(11, 30))]  # fmt: skip
    assert torch.equal(parts[0] + parts[1], whole)
    assert whole.sum() == (labels != 255).sum()


def test_images_of_every_size_are_scored_through_the_window():
    torch.manual_seed(0)
    model = Segmenter(BACKBONE, CLASSES, LinearHeadConfig()).eval()
    disturb(model)
    batches = []
    for height, width in ((16, 16), (23, 40)):
        image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        labels = torch.randint(0, CLASSES, (1, height, width), dtype=torch.uint8)
        batches.append(SegmentedBatch(image, labels, ("a",)))
    inference = InferenceConfig(scales=(1.0, 1.5), flip=True, stride=(8, 8))
    scores = score_segmenter(model, batches, inference)
    hits = sum(
        int((label_map(model, batch.images[0], inference) == batch.labels[0]).sum())
        for batch in batches
    )
    assert int(scores.confusion.diagonal().sum()) == hits
    assert int(scores.confusion.sum()) == 16 * 16 + 23 * 40
    whole = label_map(model, batches[1].images[0], InferenceConfig(whole=True))
    assert whole.shape == (23, 40)
    assert not torch.equal(whole, label_map(model, batches[1].images[0], inference))
