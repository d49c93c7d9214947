"""Settings are chosen on validation, and only what was chosen is measured on test."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from beit.config.evaluate import ProbeConfig
from beit.evaluation.features import FeatureTable, PatchTable
from beit.evaluation.metrics import fraction_right
from beit.evaluation.neighbours import neighbour_answers
from beit.evaluation.probe import attentive_accuracies, train_attentive, train_heads
from beit.evaluation.sweeps import (
    BOTH,
    MEAN,
    draw,
    few_labels,
    sweep_attentive,
    sweep_linear,
    sweep_neighbours,
)

CLASSES = 3
CONFIG = ProbeConfig(
    learning_rates=(1e-6, 1e-2),
    epochs=20,
    batch=16,
    neighbours=(1, 40),
    temperatures=(0.07, 1.0),
    attentive_epochs=10,
    shots=(1, 4, 30),
    seeds=3,
)


def table(images: int) -> FeatureTable:
    """Two blocks: of the first the class token knows the class, of the second the patches do."""
    targets = torch.arange(images) % CLASSES
    features, tokens = torch.randn(2, images, 2, 5)
    features[:, 1, :CLASSES] += 3 * torch.eye(CLASSES)[targets]
    tokens[:, 0, :CLASSES] += 9 * torch.eye(CLASSES)[targets]
    return FeatureTable(features, targets, (), tokens)


@pytest.fixture
def tables():
    return {"train": table(60), "validation": table(30), "test": table(45)}


def test_the_best_linear_head_on_validation_is_measured_on_test(tables):
    config = replace(CONFIG, standardise=False)
    for method, block in ((MEAN, 1), (BOTH, 0)):
        blocks, best = sweep_linear(method, tables, classes=CLASSES, config=config)
        assert (best.method, best.block, best.setting) == (method, block, {"lr": 1e-2})
        assert best.validation == max(blocks) == blocks[block]
    heads = train_heads(
        tables["train"].features, tables["train"].targets, classes=CLASSES, config=config
    )
    on_test = heads.accuracy(tables["test"].features, tables["test"].targets)
    _, best = sweep_linear(MEAN, tables, classes=CLASSES, config=config)
    assert best.test == on_test[1, 1] != best.validation
    del tables["test"]
    assert sweep_linear(MEAN, tables, classes=CLASSES, config=config).best.test is None


def test_standardised_features_have_no_scale(tables):
    """Otherwise a few steps cannot undo that what matters has small values."""
    scale = torch.tensor([1e-3, 1e-3, 1e-3, 1, 1])
    shrunk = {part: each._replace(features=scale * each.features) for part, each in tables.items()}
    sweep = partial(sweep_linear, MEAN, classes=CLASSES)
    plain, other = sweep(tables, config=CONFIG), sweep(shrunk, config=CONFIG)
    assert plain.blocks == pytest.approx(other.blocks, abs=0.04)  # one image of thirty
    assert plain.best.validation > 0.9
    assert sweep(shrunk, config=replace(CONFIG, standardise=False)).best.validation < 0.7


def test_the_best_vote_on_validation_is_measured_on_test(tables):
    blocks, best = sweep_neighbours(tables, config=CONFIG)

    def accuracy(part, block, number, temperature):
        known, queries = tables["train"], tables[part]
        answers = neighbour_answers(
            known.features[:, block], known.targets, queries.features[:, block],
            neighbours=number, temperature=temperature,
        )  # fmt: skip
        return fraction_right(answers, queries.targets)

    every = {
        (block, number, temperature): accuracy("validation", block, number, temperature)
        for block in range(2)
        for number in CONFIG.neighbours
        for temperature in CONFIG.temperatures
    }
    assert blocks == [max(v for (b, *_), v in every.items() if b == block) for block in range(2)]
    chosen = max(every, key=every.__getitem__)  # the first of equal ones
    assert (best.block, *best.setting.values()) == chosen
    assert (best.validation, best.test) == (every[chosen], accuracy("test", *chosen))


def test_the_attentive_probe_has_its_learning_rate_from_validation():
    def patches(images):
        targets = torch.arange(images) % CLASSES
        found = torch.randn(images, 4, 6)
        found[:, 0, :CLASSES] += 9 * torch.eye(CLASSES)[targets]
        return PatchTable(found.half(), targets)

    parts = {"train": patches(60), "validation": patches(30), "test": patches(45)}
    best = sweep_attentive(parts, block=1, heads=2, classes=CLASSES, config=CONFIG)
    probes = [
        probe
        for rate in CONFIG.learning_rates
        for probe in train_attentive(
            parts["train"],
            heads=2,
            classes=CLASSES,
            config=replace(CONFIG, learning_rates=(rate,)),
        )
    ]
    assert (best.block, best.setting) == (1, {"lr": 1e-2})
    scores = attentive_accuracies(probes, parts["validation"])
    assert best.validation == scores[1] > scores[0]
    assert best.test == attentive_accuracies(probes, parts["test"])[1]


def test_few_labels_are_measured_on_test_or_else_on_validation(tables):
    rows, notes = few_labels(tables, block=1, classes=CLASSES, config=CONFIG)
    assert [(row.method, row.labels, len(row.accuracies)) for row in rows] == [
        (method, labels, 3) for labels in (1, 4) for method in ("linear", "nearest neighbours")
    ]
    assert notes == ["30 labels per class left out: one class has 20"]
    known, queries = tables["train"], tables["test"]
    drawn = [draw(known.targets, 4, CLASSES, seed) for seed in range(3)]
    assert rows[3].accuracies == [
        fraction_right(
            neighbour_answers(known.features[some, 1], known.targets[some], queries.features[:, 1]),
            queries.targets,
        )
        for some in drawn
    ]
    without = {part: each for part, each in tables.items() if part != "test"}
    renamed = {"train": tables["train"], "validation": tables["test"]}
    found = [
        few_labels(each, block=1, classes=CLASSES, config=CONFIG) for each in (renamed, without)
    ]
    assert found[0].rows == rows != found[1].rows


def test_draws_have_so_many_of_each_class_and_depend_on_the_seed():
    targets = torch.arange(50) % CLASSES
    drawn = [draw(targets, 4, CLASSES, seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 12
    assert targets[drawn[0]].bincount().tolist() == [4] * CLASSES
