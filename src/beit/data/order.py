"""The order of samples, a pure function of (seed, epoch), and the randomness of each sample, a pure
function of (seed, epoch, index).

Nothing here has a state, so that a resumed run, or one with another number of worker processes,
ranks or micro-batches, reads the same samples in the same order with the same augmentations. Any
position is computed on its own, in memory that grows with the number of shards and not of samples.
Images of rare classes may come several times, or rare classes have larger weights in the loss.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np

from beit.config.data import ClassWeights
from beit.errors import ConfigError, DataError
from beit.rng import derive_seed


def sample_generator(seed: int, epoch: int, index: int) -> random.Random:
    """The generator for every random choice about one sample in one epoch.

    Args:
        seed: The seed of the run.
        epoch: Counted from 0.
        index: The place of the sample in its source.
    """
    return random.Random(derive_seed("sample", seed, epoch, index))


class Permutation:
    """A keyed permutation of the numbers below `length`, which computes where each goes and stores
    no table.

    A Feistel network over pairs (left, right) with `left` below a and `right` below b, where a * b
    is just above the length and a and b are nearly equal (Black and Rogaway, "Ciphers with
    arbitrary finite domains", 2002, method 3). Results beyond the length are permuted again until
    they are inside; of a million numbers, one in two thousand needs that.
    """

    ROUNDS: ClassVar[int] = 10

    def __init__(self, length: int, *key: int | str) -> None:
        self.length = length
        self._left = math.isqrt(max(length - 1, 0)) + 1
        self._right = max(-(-length // self._left), 1)
        rounds = np.arange(self.ROUNDS, dtype=np.uint64)
        self._keys = _hashed(rounds + np.uint64(derive_seed("permutation", *key)))

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Where each place goes; both are int64 of any shape, from 0 to `length` - 1."""
        found = self._permuted(places.astype(np.uint64))
        while (outside := found >= self.length).any():
            found[outside] = self._permuted(found[outside])
        return found.astype(np.int64)

    def _permuted(self, values: np.ndarray) -> np.ndarray:
        width = np.uint64(self._right)
        sides = [values // width, values % width]
        for number, key in enumerate(self._keys):
            here, size = number % 2, np.uint64((self._left, self._right)[number % 2])
            # The upper 32 bits times the size give a fair number below it without a division.
            drawn = (_hashed(sides[1 - here] + key) >> np.uint64(32)) * size >> np.uint64(32)
            sides[here] = (sides[here] + drawn) % size
        return sides[0] * width + sides[1]


def _hashed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: every bit of the value changes every bit of the result."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: np.ndarray = values ^ (values >> np.uint64(31))
    return hashed


class FullOrder:
    """Every epoch has each sample once; any sample may come at any position."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self._permutation = lru_cache(4)(lambda epoch: Permutation(length, "order", seed, epoch))

    def indices(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The samples at some positions of an epoch; both are int64 [n]."""
        return self._permutation(epoch)(positions)


class SortedOrder:
    """The full order of runs from before it was computed position by position: an array for each
    epoch, made by sorting random bits, which NumPy guarantees to be the same in all versions."""

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
    """The shards of an epoch in their order, cut into pieces where a lane ends."""

    firsts: np.ndarray
    """The first sample of each piece, int64 [pieces]."""
    starts: np.ndarray
    """How many samples precede each piece, and how many there are, int64 [pieces + 1]."""
    lanes: np.ndarray
    """The first piece of each lane, and the number of pieces, int64 [lanes + 1]."""
    offset: int
    """The position of the epoch's first sample in its batch."""


class ShardOrder:
    """Permutes shards, and mixes the samples of a few of them at a time: for remote data.

    The shards are drawn in a random order once and divided into lanes, contiguous stretches of
    about the same number of samples. Each position of a batch belongs to one lane, and in each
    epoch the shards of a lane are permuted anew. A process reads a contiguous slice of each batch,
    hence some of the lanes and never the others: machines divide the shards among themselves
    instead of all fetching all of them, and each needs the same ones in the next epoch. The number
    of lanes, and so which samples form a batch, depends on the number of shards and the batch size
    alone, whoever reads the batch.
    """

    MOST_LANES = 64
    SHARDS_PER_LANE = 32
    """The least number: a shard on the border of two lanes is fetched for both."""
    MIXED = 32
    """Shards that are mixed at a time over all lanes; in each lane at least two."""

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
        """How many shards are mixed at a time in each lane."""
        drawn = filled[Permutation(len(filled), "shards", seed)(np.arange(len(filled)))]
        self._firsts, self._ends = (np.cumsum(counts) - counts)[drawn], np.cumsum(counts[drawn])
        self._seed, self._batch = seed, batch
        self._shuffled = lru_cache(3)(self._shuffle)
        self._permutation = lru_cache(4 * self.MOST_LANES)(
            lambda length, *key: Permutation(length, "block", seed, *key)
        )

    def _taken(self, places: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """How many samples each lane has contributed before each place, counted from the beginning
        of the epoch's first batch, which may lie in the epoch before."""
        each = self._batch // self.lanes
        rest = places % self._batch - lanes * each
        taken: np.ndarray = places // self._batch * each + np.clip(rest, 0, each)
        return taken

    def _shuffle(self, epoch: int) -> _Shuffled:
        offset, lanes = epoch * self.length % self._batch, np.arange(self.lanes)
        sizes = self._taken(np.array(offset + self.length), lanes)
        ends = np.cumsum(sizes - self._taken(np.array(offset), lanes))
        cuts = np.unique(np.concatenate([[0], self._ends, ends]))  # none is empty
        begins, sizes = cuts[:-1], np.diff(cuts)
        shard = np.searchsorted(self._ends, begins, "right")
        shards = np.append(0, self._ends)
        lane = np.searchsorted(ends, begins, "right")
        drawn = Permutation(len(begins), "pieces", self._seed, epoch)(np.arange(len(begins)))
        order = np.lexsort((drawn, lane))
        return _Shuffled(
            (self._firsts[shard] + begins - shards[shard])[order],
            np.append(0, np.cumsum(sizes[order])),
            np.searchsorted(lane[order], np.arange(self.lanes + 1)),
            offset,
        )

    def indices(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        shuffled = self._shuffled(epoch)
        places = positions + shuffled.offset
        lanes = places % self._batch // (self._batch // self.lanes)
        first, last = shuffled.lanes[lanes], shuffled.lanes[lanes + 1]
        places = self._taken(places, lanes) - self._taken(np.array(shuffled.offset), lanes)
        places += shuffled.starts[first]
        piece = np.searchsorted(shuffled.starts, places, "right") - 1
        low = piece - (piece - first) % self.mixed
        begin, end = shuffled.starts[low], shuffled.starts[np.minimum(low + self.mixed, last)]
        for start in np.unique(begin):
            block = np.flatnonzero(begin == start)
            permutation = self._permutation(int(end[block[0]] - start), epoch, int(start))
            places[block] = start + permutation(places[block] - start)
        piece = np.searchsorted(shuffled.starts, places, "right") - 1
        found: np.ndarray = shuffled.firsts[piece] + places - shuffled.starts[piece]
        return found


Order = FullOrder | SortedOrder | ShardOrder


def _divisors(number: int) -> str:
    return ", ".join(str(value) for value in range(1, number + 1) if number % value == 0)


def check_division(batch: int, world: int, micro_batch: int) -> None:
    """Check that a batch can be divided among processes and into micro-batches.

    Args:
        batch: Images of one step over all processes.
        world: The number of processes.
        micro_batch: Images that a process computes at a time.

    Raises:
        ConfigError: `batch` is not a multiple of world * micro_batch; the message names legal
            values.
    """
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
    """The micro-batches of (epoch, index) that a rank reads for a step.

    Position p of the endless stream is in epoch p // length, at position p % length of the order.
    A step takes the next `batch` positions, rank r the r-th contiguous slice of them, and a
    micro-batch a contiguous slice of that: concatenated over micro-batches and ranks, a step is the
    same for every world and micro-batch. An epoch border may lie inside a batch.

    Args:
        step: Counted from 0.
        order: The order of the samples.
        batch: Images of one step over all ranks.
        rank: The rank of this process.
        world: The number of ranks.
        micro_batch: Images that a rank computes at a time.

    Raises:
        ConfigError: The batch cannot be divided.
        DataError: There are no samples.
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


def class_weights(counts: np.ndarray, how: ClassWeights) -> np.ndarray | None:
    """The weight of each class in the loss, float32 [C], from how often it occurs; None for `none`.

    The mean weight of all that was counted (images, labels or pixels) is 1, so that the loss at
    chance level does not change. A class that never occurs has weight 0.
    """
    if how == "none":
        return None
    frequency = counts / counts.sum()
    power = {"balanced": 1.0, "root": 0.5}[how]
    weights = np.divide(1, frequency**power, out=np.zeros(len(counts)), where=counts > 0)
    scaled: np.ndarray = (weights / (frequency * weights).sum()).astype(np.float32)
    return scaled


def balanced_places(targets: np.ndarray, seed: int) -> np.ndarray:
    """The images of an epoch in which the classes are balanced, int64; some come several times.

    If targets are class ids, int64 [n], every class comes as often as the most frequent one. If
    they are several labels, bool [n, C], an image of a rare class may also be one of a frequent
    class: it comes round(sqrt(most / n)) times, where n is the number of images of the rarest of
    its classes and `most` that of the most frequent class (repeat factor sampling; Gupta et al.
    2019, arXiv:1908.03195, section 5.1, with the most frequent class as the threshold).
    """
    everyone = np.arange(len(targets))
    order = Permutation(len(targets), "order", seed, 0)(everyone)  # which are repeated once more
    if targets.ndim == 2:
        counts = targets.sum(axis=0)
        factors = np.sqrt(counts.max(initial=1) / np.maximum(counts, 1))
        repeats = np.where(targets, factors, 1.0).max(axis=1, initial=1.0)
        return np.repeat(np.arange(len(targets)), np.rint(repeats).astype(np.int64))
    most = int(np.bincount(targets).max())
    members = (order[targets[order] == target] for target in np.unique(targets))
    return np.sort(np.concatenate([np.resize(one, most) for one in members]))
