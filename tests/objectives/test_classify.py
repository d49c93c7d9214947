"""Classification: what is mixed, softened and erased, and how learning rates fall with depth."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.training.optim import parameter_groups
from miniature import CLASSES, PLAIN, classification, labelled_batch
from reference import close, disturb


@pytest.fixture
def seen(monkeypatch):
    """What the loss was given: logits, targets and options."""
    calls = []
    real = F.cross_entropy

    def spy(logits, targets, **options):
        calls.append((logits, targets, options))
        return real(logits, targets, **options)

    monkeypatch.setattr(F, "cross_entropy", spy)
    return calls


@pytest.mark.parametrize("mix", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_mixed_targets_sum_to_one(seen, mix):
    objective, batch = classification(replace(PLAIN, **mix)).train(), labelled_batch(0)
    for _ in range(5):
        objective(batch, 0.0)
    for _, targets, _ in seen:
        assert targets.shape == (len(batch.targets), CLASSES)
        close(targets.sum(dim=1), torch.ones(len(targets)), 1e-5)
    assert any(((targets > 0) & (targets < 1)).any() for _, targets, _ in seen)
    objective.eval()(batch, 0.0)
    assert torch.equal(seen[-1][1], batch.targets)


def test_a_single_image_is_not_mixed(seen):
    batch = labelled_batch(0)
    one = batch._replace(images=batch.images[:1], targets=batch.targets[:1])
    classification(replace(PLAIN, mixup=0.8)).train()(one, 0.0)
    assert torch.equal(seen[0][1], one.targets)


def test_smoothing_is_for_training():
    objective, batch = classification(replace(PLAIN, smoothing=0.3)), labelled_batch(0)
    disturb(objective.model)
    scores = objective.model(batch.images).log_softmax(dim=1)
    plain = F.nll_loss(scores, batch.targets)
    close(objective.eval()(batch, 0.0).total, plain, 1e-5)
    close(objective.train()(batch, 0.0).total, 0.7 * plain - 0.3 * scores.mean(), 1e-5)


def test_erasing_is_for_training():
    objective, batch = classification(replace(PLAIN, erasing=1.0)), labelled_batch(0)
    given = []
    objective.model.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    objective.train()(batch, 0.0)
    objective.eval()(batch, 0.0)
    normalised = objective.model.backbone.normalise(batch.images)
    changed = (given[0] != normalised).any(dim=1).flatten(1).float().mean(dim=1)
    assert ((changed > 0) & (changed < 0.5)).all()
    assert torch.equal(given[1], batch.images)


def test_terms(seen):
    objective, batch = classification(), labelled_batch(0)
    total, terms = objective(batch, 0.0)
    assert terms["accuracy"] == (seen[0][0].argmax(dim=1) == batch.targets).float().mean()
    assert terms["loss"] == total
    assert objective.expectations() == {"chance_loss": math.log(CLASSES)}
    assert float(total.detach()) == pytest.approx(
        math.log(CLASSES), abs=0.01
    )  # the head starts almost silent


def test_learning_rate_falls_with_the_distance_from_the_head():
    """As in table 13 with 0.65: the head 1, the last block 0.65, the embedding 0.65 ** 3."""
    objective = classification()
    factors = {
        name: group.lr_factor for group in parameter_groups(objective, 0.65) for name in group.names
    }
    assert factors.keys() == dict(objective.model.named_parameters()).keys()
    for name, factor in factors.items():
        place = name.removeprefix("backbone.")
        if place.startswith(("cls_token", "pos_embed", "patch_embed.")):
            expected = 0.65**3
        elif place.startswith("blocks."):
            expected = {"0": 0.65**2, "1": 0.65}[place.split(".")[1]]
        else:
            assert place.startswith(("norm.", "head."))
            expected = 1.0
        assert factor == pytest.approx(expected), name
