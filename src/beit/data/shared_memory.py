"""Room for batches on their way from the processes that read to the one that trains."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import get_worker_info

from beit.batch import map_tensors
from beit.data.collate import SampleResult, WorkerBatch, collate

PREFETCHED = 2
"""Batches that each worker reads ahead."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108 (where Linux has it; nothing is made there by name)
MEBIBYTE = 2**20
SMALLER = (
    "fewer --workers, or --workers 0 to read in the training process; a smaller --micro-batch; "
    "more shared memory: docker run --shm-size 2g or --ipc=host, on Kubernetes an emptyDir of "
    "medium Memory at /dev/shm"
)


class NoSharedMemory(NamedTuple):
    """What a worker hands over instead of a batch that has no room on its way."""

    needed: int
    """Bytes of the batch."""
    problem: str


class TooLargeError(Exception):
    """Batches have no room in shared memory on their way from the workers."""

    def __init__(self, found: NoSharedMemory, workers: int) -> None:
        self.needed = found.needed * in_flight(workers)
        self.fitting = max(0, (shared_memory() // max(found.needed, 1) - 1) // PREFETCHED)
        super().__init__(
            f"batches of {found.needed / MEBIBYTE:.1f} MiB from {workers} processes take up to "
            f"{self.needed / MEBIBYTE:.1f} MiB of shared memory on their way, and {SHARED_MEMORY} "
            f"has {shared_memory() / MEBIBYTE:.1f} MiB"
            + f" ({found.problem})"
            * bool(found.problem)
        )


def in_flight(workers: int) -> int:
    """Batches that may be in shared memory at once: those read ahead, and the one in use."""
    return PREFETCHED * workers + 1


def shared_memory() -> int:
    """Bytes of memory that processes of this machine can share; unlimited where nothing says."""
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError:
        return sys.maxsize
    return room.f_blocks * room.f_frsize


def share(outcomes: list[SampleResult]) -> WorkerBatch | NoSharedMemory:
    """A micro-batch in memory that the training process can read. In a worker only; torch would do
    so in a thread, where its failure would leave the other side waiting."""
    parcel = collate(outcomes)
    try:
        if parcel.batch is not None and get_worker_info() is not None:
            map_tensors(parcel.batch, lambda tensor: tensor.share_memory_())
    except RuntimeError as error:
        return NoSharedMemory(size_of(parcel), " ".join(str(error).split()))
    return parcel


def size_of(parcel: WorkerBatch) -> int:
    sizes: dict[int, int] = {}
    if parcel.batch is not None:
        for value in parcel.batch:
            if isinstance(value, Tensor):
                sizes[value.data_ptr()] = value.nbytes
    return sum(sizes.values())
