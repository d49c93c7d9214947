"""What is measured of one model on the test part of a study: per image or class, for intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from beit import tasks
from beit.batch import LabelledBatch
from beit.config import LoaderConfig
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.evaluation.eval_loader import EvalLoader
from beit.models.features import attention_maps
from beit.models.heads import BackboneModel, Classifier
from beit.tasks.measurement import SegmenterEvaluation
from beit.weights.store import load_artifact

MASS = 0.6
"""Of the attention, as the figures of DINO show it (arXiv:2104.14294, figure 1)."""


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
    return [one.iou for one in found.classes if one.pixels]


def attention_overlaps(place: str, data: str, crop: float) -> list[float]:
    """IoU of what the class token looks at with the objects, for each test image.

    Of all blocks and heads the one that is best on validation; a head looks at the fewest patches
    that hold 60 % of its attention to patches. `data` has images and masks as scenes have them.
    """
    model = load_artifact(Path(place)).model
    assert isinstance(model, BackboneModel)
    validation, test = (
        _overlaps(model.eval(), Path(data) / split, crop) for split in ("val", "test")
    )
    best = int(validation.mean(dim=0).argmax())
    found: list[float] = test[:, best].tolist()
    return found


def _overlaps(model: BackboneModel, part: Path, crop: float) -> Float[Tensor, "images heads"]:
    config = model.backbone.config
    rows = []
    for path in sorted((part / "images").iterdir()):
        image, labels = (
            _centre(place, config.size, crop) for place in (path, part / "masks" / path.name)
        )
        maps = attention_maps(model.backbone, image, range(config.depth))
        looked = torch.cat([each[0, :, 0, 1:] for each in maps])
        objects = F.adaptive_avg_pool2d((labels > 0).float(), config.grid)[0, 0]
        rows.append(_iou(attended(looked), objects.flatten() > 0.5))
    return torch.stack(rows)


def _centre(path: Path, size: tuple[int, int], crop: float) -> UInt8[Tensor, "one channels h w"]:
    """The view of evaluation; masks are read as images of one channel."""
    with Image.open(path) as opened:
        width, height = opened.size
        left, top = width * (1 - crop) / 2, height * (1 - crop) / 2
        box = (left, top, width - left, height - top)
        exact = opened.resize(size[::-1], Image.Resampling.NEAREST, box)
        pixels = np.array(exact)
    return torch.from_numpy(pixels.reshape(*size, -1)).permute(2, 0, 1)[None]


def attended(weights: Float[Tensor, "heads patches"]) -> Bool[Tensor, "heads patches"]:
    """The fewest patches that hold `MASS` of each head's attention to patches."""
    order = weights.argsort(dim=1, descending=True)
    shares = (weights / weights.sum(dim=1, keepdim=True)).gather(1, order)
    before = shares.cumsum(dim=1) - shares
    return torch.zeros_like(weights, dtype=torch.bool).scatter_(1, order, before < MASS)


def _iou(
    looked: Bool[Tensor, "heads patches"], inside: Bool[Tensor, " patches"]
) -> Float[Tensor, " heads"]:
    union = (looked | inside).sum(dim=1).clamp_min(1)
    return (looked & inside).sum(dim=1) / union
