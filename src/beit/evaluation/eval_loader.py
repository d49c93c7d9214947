"""Evaluation images, read in order as often as needed, and a log of those that were skipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from beit.batch import Batch, Unreadable
from beit.config.data import LoaderConfig
from beit.data.loader import View, evaluate_batches
from beit.data.sources import ImageSource

HELD_BYTES = 512 * 2**20
BATCH = 64

Kind = TypeVar("Kind", bound=Batch)


class SkipLog:
    """What batches report of their images, gathered over all passes."""

    def __init__(self) -> None:
        self._unreadable: dict[str, Unreadable] = {}
        self._multi_frame: dict[str, None] = {}

    @classmethod
    def of_all(cls, own: SkipLog, gather: Callable[[SkipLog], list[SkipLog]]) -> SkipLog:
        """Of every process that reads a part of the images, in the order of the parts."""
        own_log, found = SkipLog(), SkipLog()
        own_log._unreadable, own_log._multi_frame = own._unreadable, own._multi_frame
        for log in gather(own_log):
            found._unreadable |= log._unreadable
            found._multi_frame |= log._multi_frame
        return found

    def unreadable(self) -> tuple[Unreadable, ...]:
        """Images that could not be read so far."""
        return tuple(self._unreadable.values())

    def multi_frame(self) -> tuple[str, ...]:
        """Images that are the first of several in their file."""
        return tuple(self._multi_frame)

    def add(self, batch: Batch) -> None:
        """Gather what a batch reports."""
        self._unreadable.update((found.key, found) for found in batch.unreadable)
        self._multi_frame.update(dict.fromkeys(batch.multi_frame))


class EvalLoader(SkipLog, Generic[Kind]):
    """Every iteration is one ordered pass over views of the images, `batch` at a time.

    With `size`, that of the views [channels, *size], they are read once where they fit in memory;
    without it every pass reads them anew. Of several processes each reads its own part.
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
    ) -> None:
        super().__init__()
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
            self.add(batch)
            yield batch

    def __iter__(self) -> Iterator[Kind]:
        if not self._fits:
            return self._read()
        if not self._held:
            self._held = list(self._read())
        return iter(self._held)
