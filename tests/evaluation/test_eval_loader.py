"""Passes over evaluation images: always the same, whether held in memory or not."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from beit.batch import LabelledBatch
from beit.config import LoaderConfig, PretrainRunConfig
from beit.config.data import Division
from beit.data.augment import EvaluationView
from beit.data.dataset import Dataset, open_source
from beit.data.labelled import divide
from beit.evaluation import eval_loader as module
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.neighbours import neighbour_score, retrieval_score
from beit.models.heads import MaskedImageModel
from beit.recipes import find_recipe

LOADER = LoaderConfig(workers=0)
RECIPE = replace(find_recipe("pretrain", "tiny", PretrainRunConfig), loader=LOADER)


@pytest.fixture
def source(class_folders):
    return open_source(str(class_folders))


def passes(source, batch=64):
    return EvalLoader(
        LabelledBatch,
        source,
        EvaluationView((16, 16), 1.0),
        size=(16, 16),
        channels=3,
        loader=LOADER,
        batch=batch,
    )


def test_held_or_read_again_is_the_same(source, monkeypatch):
    held = passes(source)
    first, second = list(held), list(held)
    assert all(one is other for one, other in zip(first, second, strict=True))
    monkeypatch.setattr(module, "HELD_BYTES", 0)
    read = passes(source, batch=10)
    for one, other in ((first, list(read)), (first, list(read))):
        assert len(other) == 4
        assert torch.equal(torch.cat([b.images for b in one]), torch.cat([b.images for b in other]))
        assert [key for b in one for key in b.keys] == [key for b in other for key in b.keys]
    assert [key for b in first for key in b.keys] == [source.key(i) for i in range(len(source))]


def test_centre_view_has_no_label():
    image = np.zeros((20, 30, 3), np.uint8)
    sample = EvaluationView((8, 12), 0.5, labelled=False)(image, 3, random.Random(0))
    assert sample.images.shape == (1, 3, 8, 12)


@pytest.mark.parametrize("labelled", [True, False])
def test_scores_of_a_pretraining_are_repeatable(class_folders, source, labelled):
    model = MaskedImageModel(RECIPE.model, 8).eval()
    device = torch.device("cpu")
    if labelled:
        splits = divide(Dataset(str(class_folders)), Division(split=0.25, seed=0))
        score, name = neighbour_score(splits, RECIPE, device), "neighbours"
    else:
        score, name = retrieval_score(source, RECIPE, device), "retrieval"
    values = score(model)
    assert values.keys() == {name, f"{name}_block"}
    assert values == score(model)
    assert 0 <= values[name] <= 1
    assert values[f"{name}_block"] in range(4)
