"""Frozen features with few labels, and what any features must beat, image by image on test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from beit.batch import LabelledBatch
from beit.config import LoaderConfig
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.evaluation.baselines import TRIVIAL
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.features import FeatureTable, every_block
from beit.evaluation.neighbours import neighbour_answers
from beit.evaluation.probe import linear_answers
from beit.models.heads import BackboneModel
from beit.recipes.studies import number_of
from beit.weights.store import load_artifact

Answers = Callable[[Tensor, Tensor, Tensor], Tensor]
METHODS: dict[str, Answers] = {"linear": linear_answers, "nearest neighbours": neighbour_answers}
CHANCE = "chance"


class Tables(NamedTuple):
    """The features of the parts."""

    train: FeatureTable
    validation: FeatureTable
    test: FeatureTable


def frozen_scores(
    place: str,
    labelled: str,
    *,
    crop: float,
    loader: LoaderConfig,
    labels: tuple[int, ...],
    draws: int,
    baselines: bool,
) -> dict[str, list[list[float]]]:
    """Whether each test image is answered rightly, for every draw of the labels.

    Keys are `ROW|MEASURE`; the row is empty for the model itself. The known images of a draw are
    those that fine-tuning with it uses; of all blocks the one that is best on validation counts.
    With `baselines` the trivial features are measured in the same way.
    """
    model = load_artifact(Path(place)).model
    assert isinstance(model, BackboneModel)
    config = model.backbone.config
    view = EvaluationView(config.size, crop)
    splits = open_labelled(labelled, split=0.2, per_class=None, seed=0)
    assert splits.test is not None
    loaders = [
        EvalLoader(
            LabelledBatch, source, view, size=config.size, channels=config.channels, loader=loader
        )
        for source in (splits.train, splits.validation, splits.test)
    ]
    model.eval()
    found = {"": Tables(*(every_block(model, each, torch.device("cpu")) for each in loaders))}
    if baselines:
        for name, features in TRIVIAL.items():
            parts = [
                table._replace(
                    features=torch.cat([features(batch.images) for batch in each])[:, None]
                )
                for table, each in zip(found[""], loaders, strict=True)
            ]
            found[name] = Tables(*parts)
    scores: dict[str, list[list[float]]] = {}
    for number in labels:
        known = [_rows(found[""].train, labelled, number, draw) for draw in range(draws)]
        for name, tables in found.items():
            for method, answers in METHODS.items():
                if name and method != "linear":
                    continue
                measure = f"{name}|{method}, {number_of(number)}"
                scores[measure] = [_hits(tables, rows, answers) for rows in known]
    if baselines:
        classes = len(splits.train.classes)
        for number in labels:
            hits = [[1 / classes] * len(found[""].test.keys)] * draws
            scores[f"{CHANCE}|linear, {number_of(number)}"] = hits
    return scores


def _rows(train: FeatureTable, labelled: str, number: int, draw: int) -> Tensor:
    """Which of all training images fine-tuning with these labels uses."""
    drawn = open_labelled(labelled, split=0.2, per_class=number or None, seed=draw).train
    keys = {drawn.key(index) for index in range(len(drawn))}
    return torch.tensor([row for row, key in enumerate(train.keys) if key in keys])


def _hits(tables: Tables, rows: Tensor, answers: Answers) -> list[float]:
    """At the block that is best on validation."""
    train, validation, test = tables
    targets, held_out = train.targets[rows], len(validation.targets)
    every = torch.cat([validation.targets, test.targets])
    right = [
        answers(
            train.features[rows, block],
            targets,
            torch.cat([validation.features[:, block], test.features[:, block]]),
        )
        == every
        for block in range(train.features.shape[1])
    ]
    best = max(right, key=lambda hits: float(hits[:held_out].float().mean()))
    found: list[float] = best[held_out:].float().tolist()
    return found
