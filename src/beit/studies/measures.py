"""What a study measures of one model on its test part: the model's answers, what its heads attend
to, and its frozen features with few labels beside trivial ones.

Values are kept image by image or class by class, for intervals.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from beit import tasks
from beit.batch import LabelledBatch
from beit.config import LoaderConfig, VisionTransformerConfig
from beit.config.data import Division
from beit.data.augment import EvaluationView
from beit.data.dataset import Dataset
from beit.data.labelled import LabelledSplits, divide
from beit.data.sources import ImageSource, keys_of
from beit.evaluation.baselines import TRIVIAL
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.features import FeatureTable, every_block
from beit.evaluation.sweeps import LOW_SHOT, Answers
from beit.models.heads import BackboneModel, Classifier, MaskedImageModel
from beit.recipes.studies import number_of
from beit.report.history import read_history
from beit.rng import seed_everything
from beit.studies.objects import best_overlaps, even_overlaps, read_objects
from beit.tasks.measurement import SegmenterEvaluation
from beit.weights.store import load_artifact

# Names of the measures.
CONVERGED_AT = "fine-tuned until it no longer rises"
ATTENTION = "attention IoU"
CONVERGENCE = "updates to 90 %"
CATCHING_UP = "updates to the best from scratch"
COUNTS = ("its updates", CONVERGENCE, CATCHING_UP, "CPU s before")
CHANCE = "chance"
CONVERGED = 0.9
"""Fraction of the final accuracy: the updates until it is reached measure convergence."""


def finetuned(labels: int) -> str:
    """The name of the measure: accuracy after fine-tuning with so many labels per class."""
    return f"fine-tuned, {number_of(labels)}"


def parts(labelled: str, labels: int = 0, draw: int = 0) -> LabelledSplits:
    """The parts of the labelled images, as fine-tuning uses them.

    Args:
        labelled: Data with train, val and test.
        labels: Training images of each class; 0: all.
        draw: Decides which training images are drawn.
    """
    return divide(Dataset(labelled), Division(split=0.2, seed=draw, per_class=labels or None))


def untrained(backbone: VisionTransformerConfig, seed: int) -> MaskedImageModel:
    """A backbone with the initial weights that pre-training starts from."""
    seed_everything(seed)
    published = backbone.initialisation == "finetune"
    started = replace(backbone, initialisation="pretrain") if published else backbone
    return MaskedImageModel(started, 2).eval()


def _central(
    model: BackboneModel, source: ImageSource, crop: float, loader: LoaderConfig
) -> EvalLoader[LabelledBatch]:
    """The images as evaluation sees them."""
    config = model.backbone.config
    view = EvaluationView(config.size, crop)
    return EvalLoader(
        LabelledBatch, source, view, size=config.size, channels=config.channels, loader=loader
    )


@torch.no_grad()
def classifier_hits(run: Path, data: str, loader: LoaderConfig) -> list[float]:
    """For each test image, in the order of the data, 1 if the top answer is right and 0 if not.

    Args:
        run: A fine-tuning.
        data: Data with a test part.
        loader: How images are read.
    """
    artifact = load_artifact(run)
    model = artifact.model
    assert isinstance(model, Classifier)
    test = parts(data).test
    assert test is not None
    batches = _central(model, test, artifact.details.crop, loader)
    model.eval()
    hits = [model(batch.images).argmax(dim=1) == batch.targets for batch in batches]
    return torch.cat(hits).float().tolist()


def segmenter_overlaps(run: Path, data: str, _loader: LoaderConfig) -> list[float]:
    """The IoU of each class that has one on the test part.

    Args:
        run: A training of a segmenter.
        data: Data with a test part.
        _loader: Not used: the run's evaluation reads the images.
    """
    found = tasks.evaluate(str(run), data=data, split="test")
    assert isinstance(found, SegmenterEvaluation)
    return [one.iou for one in found.classes if one.iou is not None]


def attention_overlaps(place: str, data: str) -> list[float]:
    """The IoU of each test scene's object with what the best head attends to; which head is the
    best is decided on validation (`beit.studies.objects`)."""
    model = load_artifact(Path(place)).model
    assert isinstance(model, BackboneModel)
    config, backbone = model.backbone.config, model.backbone.eval()
    validation, test = (
        read_objects(Path(data) / part, config.size, config.grid) for part in ("val", "test")
    )
    return [float(value) for value in best_overlaps(backbone, validation, test)]


def even_attention(place: str, data: str) -> list[float]:
    """The same for attention that knows nothing about the scene, on the grid of a model."""
    model = load_artifact(Path(place)).model
    assert isinstance(model, BackboneModel)
    config = model.backbone.config
    test = read_objects(Path(data) / "test", config.size, config.grid)
    return [float(value) for value in even_overlaps(test)]


def validation(run: str) -> float:
    """The best accuracy of a run on validation."""
    best = read_history(Path(run)).best("top1")
    assert best is not None
    return best[1]


def converged(run: Path) -> float:
    """The first evaluated step with 90 % of the final accuracy."""
    points = read_history(run).points("evaluate", "top1")
    return next(step for step, value in points if value >= CONVERGED * points[-1][1])


def caught_up(run: Path, other: Path) -> float:
    """The first evaluated step with the other run's best accuracy or more; the last without one."""
    points, mark = read_history(run).points("evaluate", "top1"), validation(str(other))
    return next((step for step, value in points if value >= mark), points[-1][0])


class Tables(NamedTuple):
    """The features of each part."""

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
    """Which test images are answered correctly from frozen features, for every draw of labels.

    The known images of a draw are those that fine-tuning with it uses. Of all blocks the one that
    is best on validation counts.

    Args:
        place: Run or artifact of the model.
        labelled: Data with train, val and test.
        crop: Fraction of the side that the evaluation crop keeps.
        loader: How images are read.
        labels: Numbers of training images of each class; 0: all.
        draws: How often the training images are drawn.
        baselines: Measure trivial features in the same way, and chance.

    Returns:
        For each `ROW|MEASURE` and draw, 1 or 0 for each test image; the row of the model is empty.
    """
    model = load_artifact(Path(place)).model
    assert isinstance(model, BackboneModel)
    splits = parts(labelled)
    assert splits.test is not None
    loaders = [
        _central(model, source, crop, loader)
        for source in (splits.train, splits.validation, splits.test)
    ]
    model.eval()
    found = {"": Tables(*(every_block(model, each, torch.device("cpu")) for each in loaders))}
    if baselines:
        for name, features in TRIVIAL.items():
            columns = [
                table._replace(
                    features=torch.cat([features(batch.images) for batch in each])[:, None]
                )
                for table, each in zip(found[""], loaders, strict=True)
            ]
            found[name] = Tables(*columns)
    scores: dict[str, list[list[float]]] = {}
    for number in labels:
        known = [_rows(found[""].train, labelled, number, draw) for draw in range(draws)]
        for name, tables in found.items():
            for method, answers in LOW_SHOT.items():
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
    """The indices of the training images that fine-tuning with this draw of labels uses."""
    keys = {*keys_of(parts(labelled, number, draw).train)}
    return torch.tensor([row for row, key in enumerate(train.keys) if key in keys])


def _hits(tables: Tables, rows: Tensor, answers: Answers) -> list[float]:
    """Which test images are answered correctly, at the block that is best on validation."""
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
