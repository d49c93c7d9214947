"""Which sample comes when: the order is a pure function of (seed, epoch), randomness of the sample.

Nothing here has a state, so that a resumed run, another number of worker processes, of ranks or of
micro-batches reads the same samples in the same order with the same augmentations.
"""

from __future__ import annotations

import functools
import random

import numpy as np

from beit.errors import ConfigError, DataError
from beit.rng import derive_seed


def sample_generator(seed: int, epoch: int, index: int) -> random.Random:
    """The source of every random choice for one sample in one epoch."""
    return random.Random(derive_seed("sample", seed, epoch, index))


@functools.lru_cache(maxsize=3)
def permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch, int64 [length], read-only.

    Sorted raw bits, because NumPy promises those for all versions and its shuffles for none.
    """
    raw = np.random.PCG64(derive_seed("order", seed, epoch)).random_raw(length)
    order: np.ndarray = np.argsort(raw, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


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
    step: int,
    *,
    length: int,
    seed: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    micro_batch: int,
) -> list[list[tuple[int, int]]]:
    """The micro-batches of (epoch, index) that a rank reads for a step; steps count from 0.

    Position p of the endless stream is sample `permutation(length, seed, p // length)[p % length]`.
    A step takes the next `batch` positions, rank r the r-th contiguous slice of them, and a
    micro-batch a contiguous slice of that: concatenated over micro-batches and ranks, a step is the
    same for every world and micro-batch. An epoch border may lie inside a batch.
    Errors: ConfigError if the batch cannot be divided, DataError if there are no samples.
    """
    check_division(batch, world, micro_batch)
    if length < 1:
        raise DataError("there are no images to read", remedy="name a folder with images")
    per_rank = batch // world
    first = step * batch + rank * per_rank
    samples = [
        (epoch, int(permutation(length, seed, epoch)[offset]))
        for epoch, offset in (
            divmod(position, length) for position in range(first, first + per_rank)
        )
    ]
    return [samples[start : start + micro_batch] for start in range(0, per_rank, micro_batch)]
