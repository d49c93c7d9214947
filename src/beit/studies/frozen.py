"""Frozen features of a backbone: computed once, judged by the block that is best on validation."""

from __future__ import annotations

from typing import Any

import torch

from beit.batch import LabelledBatch
from beit.config import LoaderConfig
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.data.sources import ImageSource
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.features import FeatureTable, every_block
from beit.models.heads import BackboneModel

CPU = torch.device("cpu")


def feature_tables(
    model: BackboneModel, labelled: str, *, crop: float, loader: LoaderConfig
) -> dict[str, FeatureTable]:
    """The features of every block for train, val and test."""
    config = model.backbone.config

    def passes(source: ImageSource) -> EvalLoader[LabelledBatch]:
        return EvalLoader(
            LabelledBatch,
            source,
            EvaluationView(config.size, crop),
            size=config.size,
            channels=config.channels,
            loader=loader,
        )

    return {
        part: every_block(model, passes(part_of(labelled, part)), CPU)
        for part in ("train", "val", "test")
    }


def part_of(labelled: str, part: str) -> ImageSource:
    splits = open_labelled(labelled, split=0.2, per_class=None, seed=0)
    chosen = {"train": splits.train, "val": splits.validation, "test": splits.test}[part]
    assert chosen is not None
    return chosen


def few_keys(labelled: str, per_class: int | None, seed: int) -> set[str]:
    """Keys of the labelled images that this seed uses: those of the fine-tuning."""
    splits = open_labelled(labelled, split=0.2, per_class=per_class, seed=seed)
    return {splits.train.key(index) for index in range(len(splits.train))}


def best_block(method: Any, tables: dict[str, FeatureTable], keys: set[str]) -> float:
    """Test accuracy in per cent of the block that is best on validation."""
    train, val, test = (tables[part] for part in ("train", "val", "test"))
    rows = torch.tensor([index for index, key in enumerate(train.keys) if key in keys])
    known, targets = train.features[rows], train.targets[rows]

    def score(block: int, queries: FeatureTable) -> float:
        value: float = method(known[:, block], targets, queries.features[:, block], queries.targets)
        return value

    best = max(range(known.shape[1]), key=lambda block: score(block, val))
    return 100 * score(best, test)
