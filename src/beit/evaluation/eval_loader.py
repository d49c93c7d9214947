"""Repeated passes over the same evaluation images."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from beit.batch import Batch, ImageBatch, SegmentedBatch, Unreadable
from beit.config.data import LoaderConfig, Resize
from beit.config.tokenizer import Interpolation
from beit.data.augment import central_view
from beit.data.loader import View, evaluate_batches
from beit.data.segmentation_transforms import WholeView
from beit.data.sources import ImageSource, Target

HELD_BYTES = 512 * 2**20
BATCH = 64

Kind = TypeVar("Kind", bound=Batch)


@dataclass(frozen=True)
class CentreView:
    """The fixed view of an image, without its label."""

    size: tuple[int, int]
    crop_share: float
    resize: Resize = "cover"
    interpolation: Interpolation = "bicubic"

    def __call__(
        self, image: np.ndarray, _target: Target | None, _generator: random.Random
    ) -> ImageBatch:
        return ImageBatch(
            central_view(image, self.size, self.crop_share, self.resize, self.interpolation)[None]
        )


class Told:
    """What batches say of their images, gathered over all passes."""

    def __init__(self) -> None:
        self._unreadable: dict[str, Unreadable] = {}
        self._several: dict[str, None] = {}

    def unreadable(self) -> tuple[Unreadable, ...]:
        """Images that no pass so far could read."""
        return tuple(self._unreadable.values())

    def several(self) -> tuple[str, ...]:
        """Images that are the first of several in their file."""
        return tuple(self._several)

    def note(self, batch: Batch) -> None:
        """Gather what a batch says."""
        self._unreadable.update((found.key, found) for found in batch.unreadable)
        self._several.update(dict.fromkeys(batch.multi_frame))


class Passes(Told, Generic[Kind]):
    """Every iteration is one ordered pass over views [channels, *size] of the images, which are
    read once where they fit in memory."""

    def __init__(
        self,
        kind: type[Kind],
        source: ImageSource,
        view: View,
        *,
        size: tuple[int, int],
        channels: int,
        loader: LoaderConfig,
    ) -> None:
        super().__init__()
        self._kind, self._source, self._view = kind, source, view
        self._channels, self._loader = channels, loader
        self._fits = len(source) * channels * math.prod(size) <= HELD_BYTES
        self._held: list[Kind] = []

    def _read(self) -> Iterator[Kind]:
        for batch in evaluate_batches(
            self._source, self._view, channels=self._channels, batch=BATCH, config=self._loader
        ):
            assert isinstance(batch, self._kind)
            self.note(batch)
            yield batch

    def __iter__(self) -> Iterator[Kind]:
        if not self._fits:
            return self._read()
        if not self._held:
            self._held = list(self._read())
        return iter(self._held)


class WholeImages(Told):
    """Every iteration is one ordered pass over whole images with their labels, read anew.

    Batches hold one image, since sizes differ. Of several processes each reads its share.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        channels: int,
        loader: LoaderConfig,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__()
        self._source, self._channels, self._loader = source, channels, loader
        self._rank, self._world = rank, world

    def __iter__(self) -> Iterator[SegmentedBatch]:
        for batch in evaluate_batches(
            self._source,
            WholeView(),
            channels=self._channels,
            batch=1,
            rank=self._rank,
            world=self._world,
            config=self._loader,
        ):
            assert isinstance(batch, SegmentedBatch)
            self.note(batch)
            yield batch
