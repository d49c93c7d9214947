"""What frozen features are worth: neighbours, a linear classifier, retrieval."""

from __future__ import annotations

import pytest
import torch

from beit.batch import ImageBatch
from beit.evaluation.features import extract_features
from beit.evaluation.metrics import fraction_right
from beit.evaluation.neighbours import neighbour_answers, retrieval_accuracy
from beit.evaluation.probe import linear_answers
from beit.models.vit import VisionTransformer
from miniature import BACKBONE, draw_images, labelled_batch
from reference import close

CPU = torch.device("cpu")
CLASSES = 4


def neighbour_accuracy(known, targets, queries, right, **settings):
    return fraction_right(neighbour_answers(known, targets, queries, **settings), right)


def linear_accuracy(known, targets, queries, right, **settings):
    return fraction_right(linear_answers(known, targets, queries, **settings), right)


@pytest.fixture
def separable():
    """Four clusters far apart, with one useless dimension of large values."""
    targets = torch.arange(CLASSES).repeat(50)
    features = torch.randn(CLASSES, 8)[targets] * 5 + torch.randn(200, 8) * 0.1
    features = torch.cat([features, 1000 + torch.randn(200, 1)], dim=1)
    return features[:120], targets[:120], features[120:], targets[120:]


@pytest.mark.parametrize("accuracy", [neighbour_accuracy, linear_accuracy])
def test_separable_classes_are_told_apart_and_shuffled_ones_are_not(separable, accuracy):
    known, targets, queries, query_targets = separable
    assert accuracy(known, targets, queries, query_targets) == 1.0
    shuffled = targets[torch.randperm(len(targets))]
    assert accuracy(known, shuffled, queries, query_targets) == pytest.approx(1 / CLASSES, abs=0.2)


@pytest.mark.parametrize("accuracy", [neighbour_accuracy, linear_accuracy])
def test_autocast_changes_nothing(separable, accuracy):
    expected = accuracy(*separable)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert accuracy(*separable) == expected


@pytest.mark.parametrize("accuracy", [neighbour_accuracy, linear_accuracy])
def test_scale_and_offset_of_features_do_not_matter(accuracy):
    features, targets = torch.randn(80, 6), torch.randint(3, (80,))
    features[:, 0] += targets
    known, queries = features[:50], features[50:]
    expected = accuracy(known, targets[:50], queries, targets[50:])
    moved = accuracy(known * 7 + 3, targets[:50], queries * 7 + 3, targets[50:])
    assert moved == pytest.approx(expected, abs=0.04)  # rounding may turn one image of thirty


def test_neighbours_vote_with_their_similarity():
    known = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1], [1.0, 0.2]])
    targets = torch.tensor([0, 1, 1, 0])
    queries = torch.tensor([[1.0, 0.1]])
    for neighbours in (1, 4, 99):
        accuracy = neighbour_accuracy(known, targets, queries, targets[:1], neighbours=neighbours)
        assert accuracy == 1.0


def test_at_a_low_temperature_only_the_nearest_counts():
    targets = torch.arange(460) % CLASSES
    features = torch.randn(460, 5) + torch.eye(CLASSES, 5)[targets]
    parts = features[:60], targets[:60], features[60:], targets[60:]
    nearest = neighbour_accuracy(*parts, neighbours=1)
    assert neighbour_accuracy(*parts, neighbours=50, temperature=1e-6) == nearest
    assert neighbour_accuracy(*parts, neighbours=50) != nearest


def test_a_large_penalty_leaves_the_more_frequent_class():
    targets = (torch.arange(100) >= 90).long()
    features = targets[:, None] + 0.1 * torch.randn(100, 3)
    assert linear_accuracy(features, targets, features, targets) == 1.0
    assert linear_accuracy(features, targets, features, targets, penalty=1e6) == pytest.approx(0.9)


def test_retrieval():
    views = torch.randn(30, 8)
    assert retrieval_accuracy(views, views + 0.01 * torch.randn(30, 8)) == 1.0
    assert retrieval_accuracy(views, torch.randn(30, 8)) < 0.2
    swapped = views.clone()
    swapped[[0, 1]] = views[[1, 0]]
    assert retrieval_accuracy(views, swapped) == pytest.approx(28 / 30)


def test_features_are_mean_patches_of_the_raw_blocks():
    backbone = VisionTransformer(BACKBONE).eval()
    batch = labelled_batch(0)
    table = extract_features(backbone, [batch, batch], out_indices=(0, 1), device=CPU)
    assert table.features.shape == (16, 2, 24)
    assert table.keys == batch.keys * 2
    assert torch.equal(table.targets, batch.targets.repeat(2))
    last = backbone(batch.images).patches.mean(dim=1)
    close(table.features[:8, 1], last.detach(), 1e-6)


def test_images_without_labels_have_features_too():
    table = extract_features(
        VisionTransformer(BACKBONE),
        [ImageBatch(draw_images(), tuple("abcdefgh"))],
        out_indices=(1,),
        device=CPU,
    )
    assert table.targets.tolist() == [-1] * 8
