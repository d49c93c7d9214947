"""Segmentation: what the loss counts, and that any split into micro-batches adds up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.batch import SegmentedBatch
from beit.config import LinearHeadConfig, UperNetConfig
from beit.models.segmenter import Segmenter
from beit.models.upernet import resize
from beit.objectives.segment import Segmentation, pixel_loss
from miniature import BACKBONE, CLASSES, draw_images, names
from reference import close, disturb

FINE = replace(BACKBONE, mask_token=False, relative_position="per-block")


def batch(step: int = 0) -> SegmentedBatch:
    """The brighter, the higher the class; the corners are ignored."""
    images = draw_images(step)
    light = images.float().mean(dim=1)
    labels = ((light > 90).long() + (light > 130)).to(torch.uint8)
    labels[:, :3, :5] = 255
    return SegmentedBatch(images, labels, names(step))


def objective(head=None) -> Segmentation:
    torch.manual_seed(1)
    head = head or UperNetConfig(head_channels=8, auxiliary_channels=4, dropout=0.0)
    model = Segmenter(FINE, CLASSES, head)
    disturb(model)
    return Segmentation(model, auxiliary_weight=0.4)


def test_the_loss_is_over_all_pixels_and_ignored_ones_count_zero():
    labels = batch().labels
    logits = torch.randn(len(labels), CLASSES, 4, 4)
    full = resize(logits, (16, 16)).log_softmax(dim=1)
    expected = 0.0
    for image, row, column in (labels != 255).nonzero().tolist():
        expected -= float(full[image, int(labels[image, row, column]), row, column])
    close(pixel_loss(logits, labels), torch.tensor(expected / labels.numel()), 1e-5)


def test_the_auxiliary_head_counts_less():
    task, given = objective().eval(), batch()
    found = task(given, 0.0)
    both = task.model.logits(given.images)
    assert found.terms["loss"] == pixel_loss(both.main, given.labels)
    assert found.terms["auxiliary_loss"] == pixel_loss(both.auxiliary, given.labels)
    close(found.total, found.terms["loss"] + 0.4 * found.terms["auxiliary_loss"], 1e-6)


def test_nothing_but_ignored_pixels_costs_nothing():
    task, given = objective(LinearHeadConfig()), batch()
    loss, terms = task(given._replace(labels=torch.full_like(given.labels, 255)), 0.0)
    loss.backward()
    assert loss == 0
    assert terms["accuracy"] == 0
    assert all(p.grad is None or not p.grad.any() for p in task.parameters())


def test_micro_batches_add_up():
    """Also where one half has no labels, without batch norm."""
    task, given = objective(LinearHeadConfig()), batch()
    given.labels[4:] = 255
    whole = task(given, 0.0).total
    halves = [
        task(given._replace(images=given.images[half], labels=given.labels[half]), 0.0).total
        for half in (slice(0, 4), slice(4, 8))
    ]
    close(sum(halves) / 2, whole, 1e-6)


def test_terms_and_chance():
    task, given = objective(LinearHeadConfig()), batch()
    terms = task(given, 0.0).terms
    assert terms.keys() == {"loss", "accuracy"}
    small = F.interpolate(given.labels[:, None].float(), (4, 4), mode="nearest-exact")[:, 0]
    predicted = task.model.logits(given.images).main.argmax(dim=1)
    right = [bool(a == b) for a, b in zip(predicted.flatten(), small.flatten(), strict=True)
             if b != 255]  # fmt: skip
    assert float(terms["accuracy"]) == pytest.approx(sum(right) / len(right))
    assert task.expectations() == {"chance_loss": math.log(CLASSES)}
