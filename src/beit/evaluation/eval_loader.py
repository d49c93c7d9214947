"""Evaluation images, read in order as often as needed, with a log of those that were skipped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Generic, TypeVar

from beit.batch import Batch, SkipLog
from beit.config.data import LoaderConfig
from beit.data.loader import View, evaluate_batches
from beit.data.sources import ImageSource

HELD_BYTES = 512 * 2**20
BATCH = 64

Kind = TypeVar("Kind", bound=Batch)


class EvalLoader(Generic[Kind]):
    """Every iteration is one ordered pass over views of the images.

    Args:
        kind: Type of the batches.
        source: The images.
        view: Makes the model's input of a decoded image.
        channels: Channels of an image.
        loader: How images are read.
        size: Height and width of the views. If given, and all views fit in memory, images are read
            only once; without it every pass reads them anew.
        batch: Images per batch.
        rank: Number of this process; each reads its own part of the images.
        world: Number of processes.
        skips: Log of skipped images, which loaders may share; by default a new one.
    """

    def __init__(
        self,
        kind: type[Kind],
        source: ImageSource,
        view: View,
        *,
        channels: int,
        loader: LoaderConfig,
        size: tuple[int, int] | None = None,
        batch: int = BATCH,
        rank: int = 0,
        world: int = 1,
        skips: SkipLog | None = None,
    ) -> None:
        self.skips = SkipLog() if skips is None else skips
        self._kind, self._source, self._view = kind, source, view
        self._channels, self._loader, self._batch = channels, loader, batch
        self._rank, self._world = rank, world
        bytes_held = math.inf if size is None else len(source) * channels * math.prod(size)
        self._fits = bytes_held <= HELD_BYTES
        self._held: list[Kind] = []

    def _read(self) -> Iterator[Kind]:
        for batch in evaluate_batches(
            self._source,
            self._view,
            channels=self._channels,
            batch=self._batch,
            rank=self._rank,
            world=self._world,
            config=self._loader,
        ):
            assert isinstance(batch, self._kind)
            self.skips.add(batch)
            yield batch

    def __iter__(self) -> Iterator[Kind]:
        if not self._fits:
            return self._read()
        if not self._held:
            self._held = list(self._read())
        return iter(self._held)
