"""Rare classes: their weights in the loss, and how often their images come."""

from __future__ import annotations

import numpy as np
import pytest

from beit.data.order import balanced_places, class_weights

COUNTS = np.array([90, 9, 1])


def test_balanced_weights_let_every_class_count_the_same():
    weights = class_weights(COUNTS, "balanced")
    assert weights == pytest.approx(100 / (3 * COUNTS))
    assert (weights * COUNTS).sum() == pytest.approx(100)  # so that chance stays what it is


def test_roots_lie_in_between_and_a_class_that_is_not_there_counts_nothing():
    weights = class_weights(np.array([90, 9, 1, 0]), "root")
    assert weights[:3] / weights[0] == pytest.approx(np.sqrt([1, 10, 90]))
    assert (weights[:3] * COUNTS).sum() == pytest.approx(100)
    assert weights[3] == 0
    assert class_weights(COUNTS, "none") is None


def test_every_class_comes_equally_often_and_every_image_comes():
    targets = np.repeat([0, 1, 2], [7, 3, 2])
    places = balanced_places(targets, seed=0)
    assert np.bincount(targets[places]).tolist() == [7, 7, 7]
    assert set(places.tolist()) == set(range(12))
    times = np.bincount(places)
    assert set(times[7:10]) == {2, 3}  # as evenly as that goes
    assert np.array_equal(places, balanced_places(targets, seed=0))
    others = [balanced_places(targets, seed) for seed in range(1, 6)]
    assert any(not np.array_equal(places, other) for other in others)  # whose turn it is


def test_an_image_of_several_classes_comes_by_its_rarest():
    targets = np.zeros((16, 2), bool)
    targets[:, 0] = True
    targets[3, 1] = True
    targets[5] = False
    assert np.bincount(balanced_places(targets, seed=0)).tolist() == [1, 1, 1, 4, *[1] * 12]
