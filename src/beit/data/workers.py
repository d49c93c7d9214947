"""Processes that read images: started, watched, and started anew when one is lost."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from beit.data.collate import SampleResult, WorkerBatch
from beit.data.listing import quoted
from beit.data.shared_memory import (
    PREFETCHED,
    SHARED_MEMORY,
    SMALLER,
    NoSharedMemory,
    TooLargeError,
    in_flight,
    share,
    shared_memory,
    size_of,
)
from beit.data.worker_watchdog import GRACE_SECONDS, POLL_SECONDS, TIMED_OUT, Watch
from beit.errors import ResourceError
from beit.process import end_with_parent

Places = list[tuple[int, int]]
"""The (epoch, index) pairs of a micro-batch."""

logger = logging.getLogger(__name__)


class Reading(NamedTuple):
    """What is read, in which portions, and by how many processes."""

    samples: Dataset[SampleResult]
    plan: Callable[[int], Iterable[Places]]
    """The micro-batches in order, without so many of the first."""
    names: Callable[[Places], list[str]]
    workers: int
    chosen: bool
    """Whether the number of workers was asked for; else it may be lowered."""
    timeout: float
    restarts: int
    """How often the processes may be started anew."""
    pin_memory: bool
    restarted: Callable[[], None]
    """Told each time it happened."""


class _LostError(Exception):
    """A worker process died, or was ended because nothing came."""

    def __init__(self, told: str, *, hung: bool) -> None:
        self.hung = hung
        super().__init__(told)


def _prepare_worker(closing: ctypes.c_bool, _worker: int) -> None:
    """One thread; it ends with the training process, however that ends; and a stop request to the
    whole group is the training process's to answer.

    `closing` is shared memory: once it is true, requests come from the parent that cleans up. One
    that comes before may also be from a parent that ends in disorder: then the worker outlives it
    by no more than a grace period.
    """

    def answer(number: int, _frame: FrameType | None) -> None:
        if closing.value:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        signal.alarm(GRACE_SECONDS)

    end_with_parent()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, answer)


def _named(lost: _LostError, waiting_for: Iterable[str]) -> ResourceError:
    """What is told of it, with the images that were waited for."""
    if not lost.hung:
        if "Bus error" in str(lost):
            return ResourceError(f"{SHARED_MEMORY} has no room for batches: {lost}", remedy=SMALLER)
        return ResourceError(
            f"a process that reads images died: {lost}",
            remedy="most often memory ran out: use fewer workers or no cache; with workers 0 the "
            "error shows itself",
        )
    names = quoted(list(waiting_for))
    return ResourceError(
        "no image came for the whole worker_timeout"
        + (f"; the batch waited for starts with {names}" if names else ""),
        remedy="check the disk or network the images lie on, or raise worker_timeout",
    )


def parcels(reading: Reading) -> Iterator[WorkerBatch]:
    """The micro-batches of the plan, in order, each once.

    When a worker process dies, or nothing comes for `timeout` seconds, all are ended and new ones
    begin with the first micro-batch that was not delivered: what a sample is follows from its place
    alone. Errors: ResourceError when that happens once more than `restarts` times.
    """
    delivered = restarts = 0
    while True:
        failure: ResourceError
        plan = reading.plan(delivered)
        try:
            for parcel in _from_one_set(reading, plan):
                delivered += 1
                yield parcel
            return
        except TooLargeError as error:
            if reading.chosen:
                raise ResourceError(str(error), remedy=SMALLER) from None
            reading = reading._replace(workers=min(error.fitting, reading.workers - 1))
            logger.warning("%s: %d read instead. Or: %s", error, reading.workers, SMALLER)
            continue
        except _LostError as lost:
            waiting_for = reading.names(next(iter(reading.plan(delivered)), []))
            failure = _named(lost, waiting_for)
            if restarts == reading.restarts:
                raise failure from lost.__cause__
        restarts += 1
        reading.restarted()
        logger.warning(
            "%s: it is read again by new processes (%d of at most %d times)",
            failure.problem, restarts, reading.restarts,
        )  # fmt: skip


def _from_one_set(reading: Reading, plan: Iterable[Places]) -> Iterator[WorkerBatch]:
    """The micro-batches of a plan in order, from one set of workers."""
    closing = RawValue(ctypes.c_bool, False)
    watch: Watch | None = None
    try:
        watch = Watch(_start(reading, plan, closing), reading.timeout)
        for number, item in enumerate(watch.items()):
            if isinstance(item, NoSharedMemory):
                raise TooLargeError(item, reading.workers)
            needed = size_of(item) if reading.workers and not number else 0
            if needed * in_flight(reading.workers) > shared_memory():
                raise TooLargeError(NoSharedMemory(needed, ""), reading.workers)
            yield item
    except (RuntimeError, OSError, EOFError) as error:
        told = _loss(error, watch)
        if told is None:
            raise
        raise _LostError(told, hung=watch is not None and watch.hung) from error
    finally:
        closing.value = True
        if watch is not None:
            watch.end()


def _start(
    reading: Reading, plan: Iterable[Places], closing: ctypes.c_bool
) -> Iterator[WorkerBatch]:
    with warnings.catch_warnings():
        # The user's number of workers is his affair; and forking is safe here although the parent
        # has threads: workers touch neither its devices nor its thread pools.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", message=".*use of fork\\(\\) may lead to deadlocks")
        return iter(
            DataLoader(
                reading.samples,
                batch_sampler=plan,
                num_workers=reading.workers,
                collate_fn=share,
                prefetch_factor=PREFETCHED if reading.workers else None,
                pin_memory=reading.pin_memory and torch.cuda.is_available(),
                timeout=min(reading.timeout, POLL_SECONDS) if reading.workers else 0,
                worker_init_fn=functools.partial(_prepare_worker, closing),
                generator=torch.Generator(),  # else it would draw from the global one
            )
        )


def _loss(error: Exception, watch: Watch | None) -> str | None:
    """What an error of torch's DataLoader tells, if it is about a lost or hung worker process."""
    text = str(error)
    if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed by" in text):
        return text.splitlines()[0]
    if watch is None:
        return None
    if TIMED_OUT in text or watch.hung:
        watch.hung = True
        return text
    # What a dead one had sent cannot be fetched from it any more.
    return repr(error) if watch.one_died() else None
