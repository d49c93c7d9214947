"""What is measured of one model on the test part of a study: per image or class, for intervals."""

from __future__ import annotations

from pathlib import Path

import torch

from beit import tasks
from beit.batch import LabelledBatch
from beit.config import LoaderConfig
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.evaluation.eval_loader import EvalLoader
from beit.models.heads import BackboneModel, Classifier
from beit.report.history import read_history
from beit.studies.objects import attention, best_head, even_overlaps, overlaps, read_objects
from beit.tasks.measurement import SegmenterEvaluation
from beit.weights.store import load_artifact

CONVERGED = 0.9
"""Of the accuracy at the end: the updates until then are the speed of convergence."""


@torch.no_grad()
def classifier_hits(run: Path, data: str, loader: LoaderConfig) -> list[float]:
    """Of each test image, in the order of the data, whether the first answer is right."""
    artifact = load_artifact(run)
    model = artifact.model
    assert isinstance(model, Classifier)
    test = open_labelled(data, split=0.2, per_class=None, seed=0).test
    assert test is not None
    config = model.backbone.config
    view = EvaluationView(config.size, artifact.details.crop)
    batches = EvalLoader(
        LabelledBatch, test, view, size=config.size, channels=config.channels, loader=loader
    )
    model.eval()
    hits = [model(batch.images).argmax(dim=1) == batch.targets for batch in batches]
    return torch.cat(hits).float().tolist()


def segmenter_overlaps(run: Path, data: str, _loader: LoaderConfig) -> list[float]:
    """The IoU of each class that occurs in the masks of the test part."""
    found = tasks.evaluate(str(run), data=data, split="test")
    assert isinstance(found, SegmenterEvaluation)
    return [one.iou for one in found.classes if one.iou is not None]


def attention_overlaps(place: str, data: str) -> list[float]:
    """Of each test scene the IoU of its object with what the best head of all attends to; which is
    the best is decided on validation (`beit.studies.objects`)."""
    model = load_artifact(Path(place)).model
    assert isinstance(model, BackboneModel)
    config, backbone = model.backbone.config, model.backbone.eval()
    validation, test = (
        read_objects(Path(data) / part, config.size, config.grid) for part in ("val", "test")
    )
    head = best_head(backbone, validation)
    found = overlaps(attention(backbone, test)[:, [head]], test.inside)[:, 0]
    return [float(value) for value in found]


def even_attention(place: str, data: str) -> list[float]:
    """The same of attention that knows nothing of the scene, on the grid of a model."""
    model = load_artifact(Path(place)).model
    assert isinstance(model, BackboneModel)
    config = model.backbone.config
    test = read_objects(Path(data) / "test", config.size, config.grid)
    return [float(value) for value in even_overlaps(test)]


def validation(run: str) -> float:
    """The best accuracy on validation."""
    best = read_history(Path(run)).best("top1")
    assert best is not None
    return best[1]


def converged(run: Path) -> float:
    """The first evaluated step with 90 % of the accuracy at the end."""
    points = read_history(run).points("evaluate", "top1")
    return next(step for step, value in points if value >= CONVERGED * points[-1][1])
