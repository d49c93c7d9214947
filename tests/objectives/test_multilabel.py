"""Multi-label classification: binary cross-entropy of mixed and softened labels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.batch import LabelledBatch
from beit.models.heads import Classifier
from beit.objectives.classify import MultiLabelClassification
from beit.rng import SampleRNG
from miniature import BACKBONE, CLASSES, PLAIN, draw_images
from reference import close, disturb

PREVALENCE = torch.tensor([0.5, 0.25, 0.0])


def batch_of(number: int = 8) -> LabelledBatch:
    targets = torch.rand(number, CLASSES, generator=torch.Generator().manual_seed(3)) < 0.4
    targets[0] = False
    return LabelledBatch(draw_images(0, number), targets, tuple(map(str, range(number))))


def objective(**changes) -> MultiLabelClassification:
    model = Classifier(BACKBONE, CLASSES)
    disturb(model)
    made = MultiLabelClassification(model, replace(PLAIN, **changes), prevalence=PREVALENCE)
    made.rng = SampleRNG(0, 0, 0)
    return made


@torch.no_grad()
def test_the_loss_is_torchs_in_float32():
    made, batch = objective().train(), batch_of()
    found = made(batch, 0.0)
    logits = made.model(batch.images)
    expected = F.binary_cross_entropy(logits.double().sigmoid(), batch.targets.double())
    assert float(found.total) == pytest.approx(float(expected), abs=1e-6)
    assert found.total.dtype == torch.float32
    right = ((logits >= 0) == batch.targets).float().mean()
    assert float(found.terms["labels_right"]) == pytest.approx(float(right))


@torch.no_grad()
def test_smoothing_draws_towards_one_half_in_training_alone():
    made, batch = objective(smoothing=0.2), batch_of()
    logits = made.model(batch.images).double()
    towards = torch.where(batch.targets, 0.9, 0.1).double()
    made.train()
    expected = F.binary_cross_entropy(logits.sigmoid(), towards)
    assert float(made(batch, 0.0).total) == pytest.approx(float(expected), abs=1e-6)
    made.eval()
    plain = F.binary_cross_entropy(logits.sigmoid(), batch.targets.double())
    assert float(made(batch, 0.0).total) == pytest.approx(float(plain), abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("mix", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_mixed_images_have_the_labels_of_both_by_their_shares(mix):
    made, batch = objective(**mix).train(), batch_of()
    images, targets = made.inputs(batch)
    truth = batch.targets.float()
    partner = truth.reshape(-1, 2, CLASSES).flip(1).reshape(-1, CLASSES)
    differ = truth != partner
    shares = (targets - partner)[differ] / (truth - partner)[differ]
    assert ((shares > 0) & (shares < 1)).any()
    assert ((shares >= -1e-6) & (shares <= 1 + 1e-6)).all()
    for row in range(len(truth)):  # one share for all labels of an image
        if differ[row].any():
            one = ((targets - partner)[row] / (truth - partner)[row])[differ[row]]
            close(one, one[:1].expand_as(one), 1e-6)
    close(targets[~differ], truth[~differ], 1e-6)
    logits = made.model(images)
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    assert float(made(batch, 0.0).total) == pytest.approx(float(expected), abs=1e-6)


def test_evaluation_neither_mixes_nor_erases():
    made, batch = objective(mixup=0.8, erasing=1.0).eval(), batch_of()
    images, targets = made.inputs(batch)
    assert torch.equal(images, batch.images)
    assert torch.equal(targets, batch.targets)


def test_chance_is_the_loss_of_always_answering_the_prevalence():
    made = objective(smoothing=0.2)
    frequent = PREVALENCE * 0.8 + 0.1
    logits = torch.logit(frequent).expand(1000, -1)
    targets = torch.zeros(1000, CLASSES)
    for column, share in enumerate(PREVALENCE.tolist()):
        targets[: int(1000 * share), column] = 1
    expected = F.binary_cross_entropy_with_logits(logits, targets * 0.8 + 0.1)
    assert made.expectations()["chance_loss"] == pytest.approx(float(expected), abs=1e-5)
    assert objective().expectations()["chance_loss"] == pytest.approx(
        (math.log(2) + 0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / 3, abs=1e-6
    )


def test_every_weight_learns():
    made = objective().train()
    made(batch_of(), 0.0).total.backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in made.model.head.parameters()
    )
