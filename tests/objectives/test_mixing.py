"""Mixup and cutmix of neighbours."""

from __future__ import annotations

import pytest
import torch

from beit.objectives.mixing import Mixing
from beit.rng import SampleRNG
from miniature import draw_images

CLASSES = 8
TARGETS = torch.arange(8)
WAYS = [{"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}]


def images():
    return draw_images().float() / 255


def mixed(first=0, last=8, step=0, **way):
    mixing = Mixing(**way, classes=CLASSES)
    return mixing(images()[first:last], TARGETS[first:last], SampleRNG(0, step, first))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [2, 4])
def test_micro_batches_are_mixed_as_their_batch(way, size):
    whole = mixed(**way)
    parts = [mixed(first, first + size, **way) for first in range(0, 8, size)]
    for number, tensor in enumerate(whole):
        assert torch.equal(torch.cat([part[number] for part in parts]), tensor)


def test_mixup_is_of_image_and_label_alike():
    """And a neighbour gets what the other gives."""
    found, labels = mixed(mixup=0.8, cutmix=0.0)
    for row in range(8):
        share = labels[row, row]
        assert 0 < share < 1
        assert labels[row, row ^ 1] == pytest.approx(1 - float(share), abs=1e-6)
        expected = share * images()[row] + (1 - share) * images()[row ^ 1]
        torch.testing.assert_close(found[row], expected, atol=1e-6, rtol=0)
    assert len({round(float(labels[row, row]), 5) for row in range(0, 8, 2)}) == 4


def test_cutmix_pastes_a_box_that_counts_by_its_area():
    boxes = 0
    for step in range(5):
        found, labels = mixed(step=step, mixup=0.0, cutmix=1.0)
        for row in range(8):
            pasted = (found[row] == images()[row ^ 1]).all(dim=0)
            kept = (found[row] == images()[row]).all(dim=0)
            assert (pasted | kept).all()
            rows, columns = pasted.nonzero().unbind(1)
            if len(rows):
                boxes += 1
                assert pasted[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            share = 1 - pasted.float().mean()
            torch.testing.assert_close(labels[row, row], share, atol=1e-6, rtol=0)
    assert boxes > 20


def test_who_has_no_neighbour_is_left_alone():
    found, labels = mixed(1, 4, mixup=0.8, cutmix=1.0)
    assert torch.equal(found[0], images()[1])
    assert labels[0].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert ((labels[1:] > 0).sum(dim=1) == 2).all()


def test_both_ways_are_drawn():
    ways = set()
    for step in range(10):
        found, _ = mixed(step=step, mixup=0.8, cutmix=1.0)
        for row in range(0, 8, 2):
            untouched = (found[row] == images()[row]).all(dim=0).any()
            ways.add("cutmix" if untouched else "mixup")
    assert ways == {"mixup", "cutmix"}
    assert not Mixing(mixup=0.0, cutmix=0.0, classes=3)
