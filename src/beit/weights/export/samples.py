"""The images an export is checked on: the user's own, or a built-in set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from beit.config.data import BY_HEADINGS, LabelFileConfig, Reading
from beit.config.validation import require
from beit.data.dataset import open_source
from beit.data.decode import decode
from beit.data.labelled import open_labelled
from beit.data.pixel_types import UnreadableError, ValueRange
from beit.data.sources import ImageSource, evenly
from beit.errors import DataError

BUILT_IN = 32


class Samples(NamedTuple):
    """Images uint8 [H, W, C] of any sizes, and where they come from."""

    images: list[np.ndarray]
    origin: str
    targets: list[int] | None = None
    """Their classes, numbered as the model's, where the images have labels of its classes."""


def built_in(channels: int) -> Samples:
    """Thirty-two computed images of 96 x 128 pixels: waves of several lengths and directions,
    over a gradient, with some noise; the same in every process."""
    chance = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:96j, -1:1:128j]
    images = []
    for _ in range(BUILT_IN):
        lengths, turns, levels = (
            chance.uniform(1, 12, channels),
            chance.uniform(0, 6.3, channels),
            (chance.uniform(40, 215, channels)),
        )
        waves = np.sin(lengths * (np.cos(turns) * x[..., None] + np.sin(turns) * y[..., None]) * 3)
        noise = chance.normal(0, 8, (96, 128, channels))
        pixels = levels + 60 * waves + 30 * x[..., None] + noise
        images.append(pixels.clip(0, 255).astype(np.uint8))
    return Samples(images, f"{BUILT_IN} built-in images (waves, gradients, noise)")


def from_data(
    place: str,
    channels: int,
    limit: int,
    classes: tuple[str, ...],
    label_file: LabelFileConfig = BY_HEADINGS,
    value_range: ValueRange | None = None,
) -> Samples:
    """Up to `limit` images, evenly spread over a source of any kind; with their labels, if it has
    any and they are all among `classes`. Raises DataError for unreadable ones."""
    source = _open(place, limit, label_file)
    known = {name: number for number, name in enumerate(classes)}
    labelled = bool(source.classes) and known.keys() >= set(source.classes)
    images, targets = [], []
    for index in range(len(source)):
        try:
            record = source.read(index)
            images.append(decode(record.data, channels=channels, value_range=value_range))
            if labelled and isinstance(record.target, int):
                targets.append(known[source.classes[record.target]])
        except UnreadableError as error:
            raise DataError(
                f"{source.key(index)} cannot be read: {error.reason}",
                remedy="repair or remove it: `beit data check` names all of them",
            ) from error
    whole = len(targets) == len(images)
    return Samples(images, f"{len(images)} images of --data", targets if whole else None)


def _open(place: str, limit: int, label_file: LabelFileConfig) -> ImageSource:
    """Labelled images of the validation part; without labels, all images."""
    require(limit > 0, f"samples is {limit}", "check on one image at least")
    reading = Reading(label_file=label_file)
    try:
        splits = open_labelled(place, split=0.5, per_class=None, seed=0, reading=reading)
    except DataError:
        return evenly(open_source(place, reading), limit)
    return evenly(splits.test or splits.validation, limit)
