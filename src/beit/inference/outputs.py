"""A model's output for many images, as columns of a table: features, tokens, classes, maps."""

from __future__ import annotations

import abc
import io
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from beit.atomic_io import make_folder, write_file
from beit.batch import ImageBatch
from beit.config.bulk import EmbedConfig, PredictConfig
from beit.data.listing import short_hash
from beit.data.loader import View
from beit.data.sources import Target
from beit.errors import ConfigError, DataError
from beit.inference.images import Places
from beit.inference.predictor import Predictor, as_rgb
from beit.models.heads import BackboneModel, Classifier
from beit.models.segmenter import Segmenter
from beit.models.sliding import label_map
from beit.tokenizers.base import VisualTokenizer
from beit.visualize import label_map_png, overlay_labels

Float = Literal["float32", "float16"]


class Column(NamedTuple):
    """A column of a table: the type of its cells or, if these are lists, of their items."""

    type: Literal["int32", "float16", "float32", "string"]
    length: int | None = None
    """Items of each list, 0 for any number; None if cells are not lists."""


Cells = Sequence[object] | np.ndarray
"""The cells of a column: a list, or an array with a row per cell."""
Images = UInt8[Tensor, "batch channels height width"]


class Rows(NamedTuple):
    """Consecutive images: the name of each, and its answer or why it has none."""

    first: int
    """Position of the first image."""
    keys: list[str]
    errors: list[str]
    """Empty for an image that was answered."""
    cells: dict[str, Cells]
    """By column; those of an image without an answer mean nothing."""

    @property
    def unreadable(self) -> int:
        """How many images have no answer."""
        return sum(map(bool, self.errors))


class Output(abc.ABC):
    """Makes a model's output for batches of images. Each image goes through `view` first."""

    columns: Mapping[str, Column]
    one_by_one = False
    """Whether images keep their own size, so that each is a batch of its own."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.view: View = predictor.artifact.details.view(predictor.size)

    @abc.abstractmethod
    def compute(self, images: Images) -> Tensor:
        """The model's output, one row per image; images and output are on its device."""

    @abc.abstractmethod
    def cells(self, rows: Tensor, images: Images, names: Sequence[str]) -> dict[str, Cells]:
        """The cells of each column.

        Args:
            rows: The output of `compute`, on the CPU.
            images: The batch that they were computed from.
            names: Names of the images below the folder that was given.
        """

    def check(self, images: Places) -> None:  # noqa: B027 - most have nothing to check
        """Raise DataError if the answers for these images cannot be kept apart."""


class Features(Output):
    """The mean patch vector after a block."""

    def __init__(self, predictor: Predictor, block: int | None, numbers: Float) -> None:
        super().__init__(predictor)
        assert isinstance(predictor.model, BackboneModel)
        backbone = predictor.model.backbone
        self.block = backbone.config.block(block)
        backbone.blocks = backbone.blocks[: self.block + 1]  # later ones would be wasted
        self.numbers = numbers
        self.columns = {"features": Column(numbers, backbone.config.width)}

    def compute(self, images: Images) -> Tensor:
        return self.predictor.mean_patches(images, self.block)

    def cells(self, rows: Tensor, images: Images, names: Sequence[str]) -> dict[str, Cells]:
        return {"features": rows.numpy().astype(self.numbers)}


class Tokens(Output):
    """The token ids that a tokenizer gives, in row-major order."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor)
        assert isinstance(predictor.model, VisualTokenizer)
        self._tokenizer = predictor.model
        height, width = predictor.model.grid
        self.columns = {"tokens": Column("int32", height * width)}

    def compute(self, images: Images) -> Tensor:
        return self._tokenizer.encode(images)

    def cells(self, rows: Tensor, images: Images, names: Sequence[str]) -> dict[str, Cells]:
        return {"tokens": rows.numpy().astype(np.int32)}


NO_LABEL = "no label"
"""What tables and summaries show if no label of a multi-label model applies."""
ANSWERS = {"class_ids": Column("int32", 0), "classes": Column("string", 0)}
"""Most probable, or most frequent, first."""


class Classes(Output):
    """The most probable classes; of a multi-label model those that count, which may be none."""

    def __init__(self, predictor: Predictor, top: int | None) -> None:
        super().__init__(predictor)
        self._top = top
        self._ids = {name: number for number, name in enumerate(predictor.classes)}
        self.columns = {**ANSWERS, "probabilities": Column("float32", 0)}

    def compute(self, images: Images) -> Tensor:
        return self.predictor.class_probabilities(images)

    def cells(self, rows: Tensor, images: Images, names: Sequence[str]) -> dict[str, Cells]:
        details = self.predictor.artifact.details
        labels = [details.labels(row, self._top) for row in rows]
        return {
            "labels": labels,
            "class_ids": [[self._ids[label.name] for label in each] for each in labels],
            "classes": [[label.name for label in each] for each in labels],
            "probabilities": [[label.probability for label in each] for each in labels],
        }


def _whole_view(image: np.ndarray, _target: Target | None, _generator: random.Random) -> ImageBatch:
    """An image as it is."""
    return ImageBatch(torch.from_numpy(image).permute(2, 0, 1)[None])


class Region(NamedTuple):
    """The pixels of one class in a label map."""

    id: int
    name: str
    fraction: float


def regions(labels: np.ndarray, classes: Sequence[str]) -> list[Region]:
    """The classes in a label map, the largest first; a class without a name is called by its id."""
    ids, counts = np.unique(labels, return_counts=True)
    fractions = (counts / labels.size).tolist()
    found = [
        Region(number, classes[number] if number < len(classes) else str(number), fraction)
        for number, fraction in zip(ids.tolist(), fractions, strict=True)
    ]
    return sorted(found, key=lambda region: -region.fraction)


class LabelMaps(Output):
    """The class of each pixel, written to `labels/` and `overlays/` in a folder; the table says how
    much of each image each class takes."""

    one_by_one = True

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        super().__init__(predictor)
        self._folder = folder
        self.view = _whole_view
        pixels = {"height": Column("int32"), "width": Column("int32")}
        self.columns = {**pixels, **ANSWERS, "fractions": Column("float32", 0)}

    def compute(self, images: Images) -> Tensor:
        model, inference = self.predictor.model, self.predictor.inference
        assert isinstance(model, Segmenter)
        return label_map(model, images[0], inference)[None]

    def cells(self, rows: Tensor, images: Images, names: Sequence[str]) -> dict[str, Cells]:
        labels, pixels = rows[0].numpy(), images[0].permute(1, 2, 0).cpu().numpy()
        self._write(names[0], labels, pixels)
        found = regions(labels, self.predictor.classes)
        return {
            "height": [labels.shape[0]],
            "width": [labels.shape[1]],
            "class_ids": [[region.id for region in found]],
            "classes": [[region.name for region in found]],
            "fractions": [[region.fraction for region in found]],
        }

    def check(self, images: Places) -> None:
        names = (map_name(images.name_below(index)) for index in range(len(images)))
        hashes = np.fromiter((short_hash(os.fsencode(name)) for name in names), np.uint64)
        order = np.argsort(hashes, kind="stable")
        twice = np.flatnonzero(np.diff(hashes[order]) == 0)
        if len(twice):
            one, other = sorted(order[twice[0] : twice[0] + 2].tolist())
            place = map_name(images.name_below(one))
            raise DataError(
                f"{images.key(other)} and {images.key(one)} would both be written to {place}",
                remedy="segment them one after the other, into different folders",
            )

    def _write(self, name: str, labels: np.ndarray, pixels: np.ndarray) -> None:
        overlay = io.BytesIO()
        Image.fromarray(overlay_labels(as_rgb(pixels), labels)).save(overlay, "PNG")
        for kind, data in (("labels", label_map_png(labels)), ("overlays", overlay.getvalue())):
            place = self._folder / kind / map_name(name)
            make_folder(place.parent)
            write_file(place, [data])


def map_name(name: str) -> str:
    """The file name of an image's label map, which never leads out of its folder."""
    parts = [part for part in Path(name).parts if part not in ("/", "..")]
    return str(Path(*parts).with_suffix(".png"))


def open_output(predictor: Predictor, config: EmbedConfig | PredictConfig) -> Output:
    """The output that the config asks of the model, which is optimized as the config says.

    Raises ConfigError if the model does not give such output.
    """
    model, kind = predictor.model, predictor.artifact.kind
    if isinstance(config, EmbedConfig) and isinstance(model, VisualTokenizer):
        given = config.compile or config.precision not in ("fp32", "auto")
        if given or config.block is not None:
            raise ConfigError(
                f"a {kind} gives the same tokens everywhere, and has no blocks to choose from",
                remedy="leave --precision, --compile and --block out",
            )
        return Tokens(predictor)
    if isinstance(config, EmbedConfig) and isinstance(model, BackboneModel):
        model.backbone.config.block(config.block)
        return Features(_optimized(predictor, config), config.block, config.numbers)
    if isinstance(config, PredictConfig) and isinstance(model, Classifier):
        return Classes(_optimized(predictor, config), config.top)
    if isinstance(config, PredictConfig) and isinstance(model, Segmenter) and config.out:
        return LabelMaps(_optimized(predictor, config), Path(config.out))
    if isinstance(config, EmbedConfig):
        raise ConfigError(f"a {kind} gives no features", remedy="name a backbone or a tokenizer")
    remedy = "fine-tune it with `beit finetune --init`, or use `beit embed`"
    if isinstance(model, Segmenter):
        remedy = "its answers are written: `beit predict --out FOLDER`"
    raise ConfigError(f"a {kind} model does not classify", remedy=remedy)


def _optimized(predictor: Predictor, config: EmbedConfig | PredictConfig) -> Predictor:
    return predictor.optimized(precision=config.precision, compile=config.compile)
