"""Which sample comes when: the order is a pure function of (seed, epoch), randomness of the sample.

Nothing here has a state, so that a resumed run, another number of worker processes, of ranks or of
micro-batches reads the same samples in the same order with the same augmentations. Any position is
computed alone, in memory that grows with the number of shards and not of samples.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from beit.data.permutation import Permutation
from beit.errors import ConfigError, DataError
from beit.rng import derive_seed


def sample_generator(seed: int, epoch: int, index: int) -> random.Random:
    """The source of every random choice for one sample in one epoch."""
    return random.Random(derive_seed("sample", seed, epoch, index))


class Order(Protocol):
    """The samples of every epoch, each once, in some order."""

    length: int
    """Samples in an epoch."""

    def indices(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The samples at some positions of an epoch, both int64 [n]."""


class FullOrder:
    """Every sample may come at any position."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self._permutation = lru_cache(4)(lambda epoch: Permutation(length, "order", seed, epoch))

    def indices(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return self._permutation(epoch)(positions)


class SortedOrder:
    """The full order of runs that began before it was computed position by position: sorted random
    bits, which NumPy promises for all versions, in an array for each epoch."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self._epoch = lru_cache(3)(lambda epoch: self._sorted(seed, epoch))

    def _sorted(self, seed: int, epoch: int) -> np.ndarray:
        raw = np.random.PCG64(derive_seed("order", seed, epoch)).random_raw(self.length)
        return np.argsort(raw, kind="stable").astype(np.int64)

    def indices(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._epoch(epoch)[positions]
        return found


class _Shuffled(NamedTuple):
    """The shards of an epoch in their order, which are cut into lanes of equal length."""

    shards: np.ndarray
    """Which shard comes when, int64 [shards]."""
    starts: np.ndarray
    """Samples before each of them and before the end, int64 [shards + 1]."""
    lanes: np.ndarray
    """Samples before each lane and before the end, int64 [lanes + 1]."""
    first: int
    """Place of the epoch's first sample in its batch."""


class ShardOrder:
    """Shards are permuted, and a few of them at a time are mixed: for data that is far away.

    Every batch takes the same places from the same lanes, each of which is a stretch of the
    permuted shards. As a process takes a stretch of each batch, it reads some of the lanes and
    never the others, so that many machines share the shards instead of all fetching all of them.
    The number of lanes follows from that of shards and the batch alone, and with it which samples
    a batch has, whoever reads it.
    """

    MOST_LANES = 64
    SHARDS_PER_LANE = 32
    """At least: a shard on the border of two lanes is fetched for both."""
    MIXED = 16
    """Shards that are mixed at a time over all lanes, and no fewer than two in each."""

    def __init__(self, counts: np.ndarray, seed: int, batch: int) -> None:
        filled = np.flatnonzero(counts)
        self.length, self.lanes = int(counts.sum()), 1
        while (
            self.lanes < self.MOST_LANES
            and batch % (2 * self.lanes) == 0
            and 2 * self.lanes * self.SHARDS_PER_LANE <= len(filled)
        ):
            self.lanes *= 2
        self.mixed = max(self.MIXED // self.lanes, 2)
        """Shards that are mixed at a time in each lane."""
        self._counts, self._firsts = counts[filled], (np.cumsum(counts) - counts)[filled]
        self._seed, self._batch = seed, batch
        self._shuffled = lru_cache(3)(self._shuffle)
        self._permutation = lru_cache(4 * self.MOST_LANES)(
            lambda length, *key: Permutation(length, "block", seed, *key)
        )

    def _taken(self, positions: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """Samples that a lane has given before some positions of the batches since the epoch's
        first one."""
        each = self._batch // self.lanes
        rest = positions % self._batch - lanes * each
        taken: np.ndarray = positions // self._batch * each + np.clip(rest, 0, each)
        return taken

    def _shuffle(self, epoch: int) -> _Shuffled:
        permutation = Permutation(len(self._counts), "shards", self._seed, epoch)
        shards = permutation(np.arange(len(self._counts)))
        first, lanes = epoch * self.length % self._batch, np.arange(self.lanes)
        sizes = self._taken(np.array(first + self.length), lanes)
        sizes -= self._taken(np.array(first), lanes)
        starts, ends = np.cumsum(self._counts[shards]), np.cumsum(sizes)
        return _Shuffled(shards, np.append(0, starts), np.append(0, ends), first)

    def indices(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        shuffled = self._shuffled(epoch)
        places = positions + shuffled.first
        lanes = places % self._batch // (self._batch // self.lanes)
        within = self._taken(places, lanes) - self._taken(np.array(shuffled.first), lanes)
        places = shuffled.lanes[lanes] + within
        # Which shard of its lane it is, and so which block of them.
        first = np.searchsorted(shuffled.starts, shuffled.lanes[lanes], "right") - 1
        shard = np.searchsorted(shuffled.starts, places, "right") - 1
        blocks = (shard - first) // self.mixed
        low = first + blocks * self.mixed
        high = np.minimum(low + self.mixed, len(shuffled.shards))
        begin = np.maximum(shuffled.starts[low], shuffled.lanes[lanes])
        end = np.minimum(shuffled.starts[high], shuffled.lanes[lanes + 1])
        for start in np.unique(begin):
            one = np.flatnonzero(begin == start)
            length = int(end[one[0]] - start)
            permutation = self._permutation(length, epoch, int(lanes[one[0]]), int(start))
            places[one] = start + permutation(places[one] - start)
        shard = np.searchsorted(shuffled.starts, places, "right") - 1
        found: np.ndarray = self._firsts[shuffled.shards[shard]] + places - shuffled.starts[shard]
        return found


def _divisors(number: int) -> str:
    return ", ".join(str(value) for value in range(1, number + 1) if number % value == 0)


def check_division(batch: int, world: int, micro_batch: int) -> None:
    """ConfigError, with the legal values, unless `batch` is a multiple of world * micro_batch."""
    if min(batch, world, micro_batch) < 1:
        raise ConfigError(
            f"batch {batch}, micro-batch {micro_batch} and {world} processes must be positive",
            remedy="use 1 or more of each",
        )
    if batch % world:
        raise ConfigError(
            f"batch {batch} cannot be divided among {world} processes",
            remedy=f"use a batch of {max(batch // world, 1) * world} or "
            f"{(batch // world + 1) * world}, or one of these numbers of processes: "
            f"{_divisors(batch)}",
        )
    if batch // world % micro_batch:
        raise ConfigError(
            f"the {batch // world} images of a process (batch {batch}, {world} processes) "
            f"cannot be divided into micro-batches of {micro_batch}",
            remedy=f"use a micro-batch of one of: {_divisors(batch // world)}",
        )


def step_samples(
    step: int, *, order: Order, batch: int, rank: int = 0, world: int = 1, micro_batch: int
) -> list[list[tuple[int, int]]]:
    """The micro-batches of (epoch, index) that a rank reads for a step; steps count from 0.

    Position p of the endless stream is in epoch p // length, at position p % length of the order.
    A step takes the next `batch` positions, rank r the r-th contiguous slice of them, and a
    micro-batch a contiguous slice of that: concatenated over micro-batches and ranks, a step is the
    same for every world and micro-batch. An epoch border may lie inside a batch.
    Errors: ConfigError if the batch cannot be divided, DataError if there are no samples.
    """
    check_division(batch, world, micro_batch)
    if order.length < 1:
        raise DataError("there are no images to read", remedy="name a folder with images")
    per_rank = batch // world
    first = step * batch + rank * per_rank
    epochs, positions = np.divmod(np.arange(first, first + per_rank), order.length)
    samples = [
        (epoch, index)
        for epoch in np.unique(epochs).tolist()
        for index in order.indices(epoch, positions[epochs == epoch]).tolist()
    ]
    return [samples[start : start + micro_batch] for start in range(0, per_rank, micro_batch)]
