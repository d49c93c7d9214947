"""What pages and sheets show: a model, and always the same images, as many as are affordable."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from beit.batch import ImageBatch
from beit.config.data import AS_RECOGNISED, LoaderConfig, Reading
from beit.data.augment import EvaluationView
from beit.data.colours import ValueRange
from beit.data.dataset import open_source
from beit.data.loader import View
from beit.data.sources import ImageSource, class_names_at, evenly, keys_of, select
from beit.errors import CheckpointError, ConfigError
from beit.evaluation.eval_loader import EvalLoader, Kind
from beit.hardware import best_device, find_device
from beit.models.heads import BackboneModel
from beit.models.vit import VisionTransformer
from beit.weights.load import open_artifact
from beit.weights.store import Details, load_artifact

Model = TypeVar("Model", bound=nn.Module)

FEWEST = 8
BATCH = 16
BUDGET = {"cpu": 4e11, "mps": 4e12, "cuda": 4e13}
"""Operations spent on one section: some seconds on two cores, or on any GPU."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunModel(Generic[Model]):
    """The model that a run published, on the device that its page is made with."""

    model: Model
    details: Details
    device: torch.device

    def affordable(self, positions: int, most: int) -> int:
        """How many images of `positions` tokens each a section reads: from FEWEST to `most`.

        It depends on the model, not on a clock, so that the same page shows the same images.
        """
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        budget = BUDGET.get(self.device.type, BUDGET["cpu"])
        return max(FEWEST, min(most, int(budget / (2 * max(weights, 1) * positions))))


def open_model(run: Path, kind: type[Model]) -> RunModel[Model]:
    """The artifact of a run, which must be of the kind that such a run trains.

    Raises:
        BeitError: There is none, or it is of another kind.
    """
    device = best_device()
    artifact = load_artifact(run)
    model = artifact.model.to(device)
    if not isinstance(model, kind):
        raise CheckpointError(
            f"the model in {run} is a {artifact.kind}, which is not what its run trains",
            remedy="copy the whole folder of the run again from where it was made",
        )
    return RunModel(model=model, details=artifact.details, device=device)


def images_named(source: ImageSource, keys: Sequence[str]) -> ImageSource:
    """The images with these names, in this order."""
    places = {key: index for index, key in enumerate(keys_of(source))}
    return select(source, [places[key] for key in keys])


def batches(
    kind: type[Kind],
    source: ImageSource,
    view: View,
    channels: int,
    value_range: ValueRange | None = None,
    batch: int = BATCH,
) -> Iterator[Kind]:
    """One ordered pass over images, read in this process.

    Args:
        kind: Type of the batches.
        source: The images.
        view: Makes the model's input of a decoded image.
        channels: Channels of an image.
        value_range: Values that become black and white in images of more than 8 bits.
        batch: Images per batch.

    Raises:
        DataError: No image can be read.
    """
    loader = LoaderConfig(workers=0, cache=False, value_range=value_range)
    return iter(EvalLoader(kind, source, view, channels=channels, loader=loader, batch=batch))


def best_typical_worst(scores: Sequence[float], each: int) -> list[tuple[str, int]]:
    """Names and indices of typical images, the best and the worst, `each` as many.

    If there are no more than three times `each`, all of them, without a name, the best first.
    """
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    if len(order) <= 3 * each:
        return [("", index) for index in order]
    middle = (len(order) - each) // 2
    groups = {
        "typical": order[middle : middle + each],
        "best": order[:each],
        "worst": order[-each:],
    }
    return [(name, index) for name, members in groups.items() for index in members]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a sheet of `beit show` is to be made of."""

    model: str
    """A run, an artifact, or any released model that loads."""
    data: str
    images: int
    """Number of images at most, spread evenly over the data."""
    device: str
    reading: Reading = AS_RECOGNISED

    def source(self) -> ImageSource:
        """The images. Raises ConfigError if none are asked for, DataError if there are none."""
        if self.images < 1:
            raise ConfigError(f"images is {self.images}", remedy="use 1 or more")
        return evenly(open_source(self.data, self.reading), self.images)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A backbone, and some images as it sees them."""

    backbone: VisionTransformer
    device: torch.device
    images: UInt8[Tensor, "images channels height width"]
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    """The class or classes of each image; empty if the data have none."""


def read_all(
    source: ImageSource, view: EvaluationView, channels: int, value_range: ValueRange | None = None
) -> Iterator[ImageBatch]:
    """Every image that can be read, in order; the others are logged and skipped.

    Args:
        source: The images.
        view: Makes the model's input of a decoded image.
        channels: Channels of an image.
        value_range: Values that become black and white in images of more than 8 bits.

    Raises:
        DataError: No image can be read.
    """
    for batch in batches(ImageBatch, source, view, channels, value_range):
        for one in batch.unreadable:
            logger.warning("unreadable: %s: %s", one.key, one.reason)
        yield batch


def read_inputs(request: Request) -> Inputs:
    """Load the model and read the images; those that cannot be read are logged and skipped.

    Raises:
        ConfigError: The model has no backbone, or no images are asked for.
        CheckpointError: The model is not there or cannot be read.
        DataError: There are no images, or none that can be read.
    """
    source, device = request.source(), find_device(request.device)
    artifact = open_artifact(request.model)
    model, details = artifact.model, artifact.details
    if not isinstance(model, BackboneModel):
        raise ConfigError(
            f"{request.model} is a {artifact.kind}, which has no backbone to look into",
            remedy="give a pre-trained or fine-tuned model, or use `beit show codebook`",
        )
    config = model.backbone.config
    read = list(read_all(source, details.view(config.size), config.channels, details.value_range))
    keys = tuple(key for batch in read for key in batch.keys)
    classes = {
        key: " + ".join(class_names_at(source, index)) for index, key in enumerate(keys_of(source))
    }
    return Inputs(
        backbone=model.backbone.to(device),
        device=device,
        images=torch.cat([batch.images for batch in read]),
        keys=keys,
        labels=tuple(classes.get(key, "") for key in keys),
    )
