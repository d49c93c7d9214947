"""A model and the images it is shown, for the sheets of `beit show`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

from beit.batch import ImageBatch
from beit.config.data import BY_HEADINGS, LabelFileConfig, Reading
from beit.data.dataset import open_source
from beit.data.pixel_types import ValueRange
from beit.data.sources import ImageSource, class_names_at, evenly
from beit.errors import ConfigError
from beit.evaluation.eval_loader import CentreView
from beit.hardware import find_device
from beit.models.heads import BackboneModel
from beit.models.vit import VisionTransformer
from beit.report.samples import batches
from beit.weights.load import open_artifact

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Looking:
    """A backbone, and some images as it sees them."""

    backbone: VisionTransformer
    device: torch.device
    images: UInt8[Tensor, "images channels height width"]
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    """The class or classes of each image, empty where the data have none."""


def _labels(source: ImageSource) -> dict[str, str]:
    return {
        source.key(index): " + ".join(class_names_at(source, index)) for index in range(len(source))
    }


def read_all(
    source: ImageSource, view: CentreView, channels: int, value_range: ValueRange | None = None
) -> Iterator[ImageBatch]:
    """Every image that can be read, in order; the others are named and left out.

    Errors: DataError if none can be read.
    """
    for batch in batches(ImageBatch, source, view, channels, value_range):
        for one in batch.unreadable:
            logger.warning("unreadable: %s: %s", one.key, one.reason)
        yield batch


def look_at(
    reference: str,
    data: str,
    *,
    images: int,
    device: str,
    label_file: LabelFileConfig = BY_HEADINGS,
) -> Looking:
    """Load a model and at most so many images, spread evenly over the data.

    Images that cannot be read are named and left out.
    Errors: ConfigError if the model has no backbone, CheckpointError and DataError if model or
    images are not there or none of them can be read.
    """
    if images < 1:
        raise ConfigError(f"images is {images}", remedy="use 1 or more")
    where = find_device(device)
    artifact = open_artifact(reference)
    model = artifact.model
    if not isinstance(model, BackboneModel):
        raise ConfigError(
            f"{reference} is a {artifact.kind}, which has no backbone to look into",
            remedy="give a pre-trained or fine-tuned model, or use `beit show codebook`",
        )
    config = model.backbone.config
    source = evenly(open_source(data, Reading(label_file=label_file)), images)
    said = artifact.details
    view = CentreView(config.size, said.crop, said.resize, said.interpolation)
    read = list(read_all(source, view, config.channels, said.value_range))
    keys = tuple(key for batch in read for key in batch.keys)
    named = _labels(source)
    return Looking(
        backbone=model.backbone.to(where),
        device=where,
        images=torch.cat([batch.images for batch in read]),
        keys=keys,
        labels=tuple(named.get(key, "") for key in keys),
    )
