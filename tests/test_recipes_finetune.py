"""The published fine-tunings: every row is a whole config, builds at full size and steps."""

from __future__ import annotations

import pytest
import torch

from beit.batch import LabelledBatch
from beit.config import sized
from beit.models.heads import Classifier
from beit.objectives.classify import Classification
from beit.recipes.finetune import PUBLISHED, RECIPES, for_classifying
from beit.training.optim import Optimizer

SHAPES = {(row.backbone, row.size): name for name, row in PUBLISHED.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_says_its_source_and_that_it_was_not_run(name):
    text = RECIPES[name].__doc__ or ""
    assert "Not run by us" in text
    assert "beit" in text or "table" in text


def test_a_recipe_for_larger_images_keeps_its_size_whatever_it_starts_from():
    pretrained = sized("base")
    for name, row in PUBLISHED.items():
        assert for_classifying(pretrained, RECIPES[name]()).size == (row.size, row.size)
    tiles = sized("base", size=64)
    assert for_classifying(tiles, RECIPES["base-in1k"]()).size == (64, 64)
    assert for_classifying(tiles, RECIPES["base-in22k-in1k-384"]()).size == (384, 384)


@pytest.mark.parametrize(
    ("name", "steps", "warmup"),
    [
        ("base-in1k", 125_100, 25_020),
        ("large-in22k-in1k-384", 75_060, 12_510),
        ("base-cifar100", 14_550, 1_940),
        ("base-in1k-384", 25_020, 12_510),
        ("v2-large-in21k-in1k", 25_020, 6_255),
    ],
)
def test_epochs_in_steps(name, steps, warmup):
    training = RECIPES[name]().training
    assert (training.steps, training.warmup_steps) == (steps, warmup)


def test_what_differs_from_row_to_row():
    from_22k = RECIPES["large-in22k-in1k-384"]()
    assert (from_22k.augment.mixup, from_22k.augment.cutmix) == (0.0, 0.0)
    assert (from_22k.crop, from_22k.training.weight_decay) == (1.0, 1e-8)
    assert from_22k.model.mean == (0.5,) * 3
    assert from_22k.model.drop_path == 0.4
    assert all(RECIPES[name]().augment.smoothing == 0.1 for name in PUBLISHED)
    second_stage = RECIPES["large-in1k-384"]()
    training = second_stage.training
    assert (training.lr, training.min_lr, training.weight_decay) == (5e-6, 5e-6, 1e-8)
    assert (training.batch, training.layer_decay) == (512, 1.0)
    assert (second_stage.augment.mixup, second_stage.model.drop_path) == (0.8, 0.2)
    cifar = RECIPES["base-cifar100"]()
    assert (cifar.augment.erasing, cifar.training.weight_decay) == (0.0, 0.3)
    # Numbers of the paper's tables are those of plain ViTs, of the READMEs those of BEiT+.
    plain = {name for name in PUBLISHED if RECIPES[name]().model.absolute_position}
    assert plain == {"base-cifar100", "base-in1k-384", "large-in1k-384"}
    for name in PUBLISHED:
        model = RECIPES[name]().model
        assert (model.layer_scale is None) == (name in plain)
        assert model.relative_position == ("none" if name in plain else "per-block")
    second = RECIPES["v2-base-in1k"]()
    assert second.model.mean == (0.485, 0.456, 0.406)
    assert (second.augment.mixup, second.training.layer_decay) == (0.8, 0.6)


@pytest.mark.parametrize("name", SHAPES.values())
def test_a_recipe_builds_at_full_size(name):
    """On the meta device: shapes are computed, numbers are not."""
    config = RECIPES[name]()
    with torch.device("meta"):
        model = Classifier(config.model, 1000, config.head)
        assert model(torch.zeros(2, 3, *config.model.size)).shape == (2, 1000)


def test_a_step_at_full_size():
    config = RECIPES["v2-base-in1k"]()
    model = Classifier(config.model, 10, config.head)
    batch = LabelledBatch(torch.zeros(2, 3, 224, 224, dtype=torch.uint8), torch.arange(2), ())
    objective = Classification(model, config.augment, classes=10).train()
    optimizer = Optimizer(objective, config.training)
    before = model.head.weight.detach().clone()
    objective(batch, 0.0).total.backward()
    optimizer.schedule(config.training.warmup_steps)
    optimizer.adamw.step()
    assert not torch.equal(model.head.weight, before)
