"""The endless loader of training and the single pass of evaluation."""

from __future__ import annotations

import ctypes
import functools
import os
import random
import signal
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.sharedctypes import RawValue
from types import FrameType

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from beit.batch import Batch, Unreadable
from beit.config.data import LoaderConfig
from beit.data.collate import Outcome, Parcel, collate
from beit.data.decode import UnreadableError
from beit.data.listing import quoted
from beit.data.order import check_division, sample_generator, step_samples
from beit.data.pictures import Pictures, cores
from beit.data.recurring import RecurringViews
from beit.data.sources import ImageSource
from beit.data.views import Sample
from beit.data.watch import GRACE_SECONDS, Watch
from beit.errors import DataError, ResourceError

View = Callable[[np.ndarray, int | None, random.Random], Sample] | RecurringViews
"""Pixels uint8 [H,W,C], target and the sample's own source of chance, to a sample; or views that
come again and find their chance themselves."""
Places = list[tuple[int, int]]
"""The (epoch, index) pairs of a micro-batch."""

MOST_WORKERS = 16
MOST_WORKERS_WITHOUT_ACCELERATOR = 2


def choose_workers(config: LoaderConfig, world: int) -> int:
    """Processes that read pictures for one rank.

    `config.workers` if given. Else all processors of the rank but one, at most 16; at most 2 if the
    training itself runs on processors; none if the rank has a single one. Cached pictures follow
    the same rule: a view costs more than its journey between processes. The ranks on this machine
    are those torchrun names (LOCAL_WORLD_SIZE), else all of them.
    """
    if config.workers is not None:
        return config.workers
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    most = MOST_WORKERS if torch.cuda.is_available() else MOST_WORKERS_WITHOUT_ACCELERATOR
    return min(max(cores() // local - 1, 0), most)


class _Samples(Dataset[Outcome]):
    """(epoch, index) to the sample, whose randomness follows from (seed, epoch, index) alone."""

    def __init__(self, pictures: Pictures, view: View, seed: int) -> None:
        self._pictures = pictures
        self._view = view
        self._seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Outcome:
        epoch, index = place
        key = self._pictures.key(index)
        try:
            picture = self._pictures.read(index)
        except UnreadableError as error:
            return Outcome(key, None, error.reason)
        if isinstance(self._view, RecurringViews):
            return Outcome(key, self._view.of(picture.pixels, self._seed, epoch, index))
        generator = sample_generator(self._seed, epoch, index)
        return Outcome(key, self._view(picture.pixels, picture.target, generator))


def _prepare_worker(closing: ctypes.c_bool, _worker: int) -> None:
    """One thread; and a stop request to the whole group is the training process's to answer.

    `closing` is shared memory: once it is true, requests come from the parent that cleans up. One
    that comes before may also be from a parent that ends in disorder: then the worker outlives it
    by no more than a grace period.
    """

    def answer(number: int, _frame: FrameType | None) -> None:
        if closing.value:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        signal.alarm(GRACE_SECONDS)

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, answer)


def _died(told: str) -> ResourceError:
    return ResourceError(
        f"a process that reads pictures died: {told}",
        remedy="most often memory ran out: use fewer workers or no cache; with workers 0 the "
        "error shows itself",
    )


def _hung(waiting_for: Iterable[str]) -> ResourceError:
    names = quoted(list(waiting_for))
    return ResourceError(
        "no picture came for the whole worker_timeout"
        + (f"; the batch waited for starts with {names}" if names else ""),
        remedy="check the disk or network the pictures lie on, or raise worker_timeout",
    )


def worker_failure(error: Exception, waiting_for: Iterable[str] = ()) -> ResourceError | None:
    """What an error of torch's DataLoader means, if it is about a lost or hung worker process.

    A lost one is also noticed outside the loader: its signal interrupts whatever the training
    process is doing, so whoever trains asks here too.
    """
    text = str(error)
    if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed by" in text):
        return _died(text.splitlines()[0])
    if "DataLoader timed out" in text:
        return _hung(waiting_for)
    return None


def _parcels(
    samples: _Samples,
    plan: Iterable[Places],
    names: Callable[[Places], list[str]],
    *,
    workers: int,
    timeout: float,
    pin_memory: bool,
) -> Iterator[Parcel]:
    """The micro-batches of a plan in order, from one set of workers."""
    waiting: deque[Places] = deque()
    closing = RawValue(ctypes.c_bool, False)

    def issued() -> Iterator[Places]:
        for places in plan:
            waiting.append(places)
            yield places

    with warnings.catch_warnings():
        # The user's number of workers is his affair; and forking is safe here although the parent
        # has threads: workers touch neither its devices nor its thread pools.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        warnings.filterwarnings("ignore", message=".*use of fork\\(\\) may lead to deadlocks")
        iterator = iter(
            DataLoader(
                samples,
                batch_sampler=_Plan(issued),
                num_workers=workers,
                collate_fn=collate,
                pin_memory=pin_memory and torch.cuda.is_available(),
                timeout=timeout if workers else 0,
                worker_init_fn=functools.partial(_prepare_worker, closing),
                generator=torch.Generator(),  # else it would draw from the global one
            )
        )
    watch = Watch(iterator, timeout)
    try:
        for parcel in watch.items():
            waiting.popleft()
            yield parcel
    except (RuntimeError, OSError, EOFError) as error:
        expected = names(waiting[0]) if waiting else []
        failure = _hung(expected) if watch.hung else worker_failure(error, expected)
        if failure is None and watch.one_died():
            failure = _died(repr(error))  # what it had sent cannot be fetched from it any more
        if failure is None:
            raise
        raise failure from error
    finally:
        closing.value = True
        watch.end()


class _Plan:
    """An iterable that starts over with every `iter`, which is what DataLoader expects."""

    def __init__(self, start: Callable[[], Iterator[Places]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[Places]:
        return self._start()


def _none_readable(unreadable: Iterable[Unreadable]) -> DataError:
    named = [f"{key} ({reason})" for key, reason in unreadable]
    return DataError(
        f"none of the {len(named)} pictures of a batch can be read: {quoted(named)}",
        remedy="repair or remove these files, or use a larger micro-batch",
    )


def _check_filled(source: ImageSource) -> None:
    if len(source) == 0:
        raise DataError("there are no pictures to read", remedy="name a folder with pictures")


class Loader:
    """One process's share of an endless, resumable stream of micro-batches.

    What is read in a step follows from (seed, step) alone, see `order.step_samples`. Unreadable
    pictures are left out of their micro-batch and listed in it, never replaced.
    Errors: ConfigError if the batch cannot be divided; DataError for an empty source.
    """

    def __init__(
        self,
        source: ImageSource,
        view: View,
        *,
        channels: int,
        batch: int,
        micro_batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        config: LoaderConfig,
        pin_memory: bool = False,
    ) -> None:
        check_division(batch, world, micro_batch)
        _check_filled(source)
        self.pictures = Pictures(source, channels, config.cache)
        self.workers = choose_workers(config, world)
        self._samples = _Samples(self.pictures, view, seed)
        self._batch, self._micro_batch, self._seed = batch, micro_batch, seed
        self._rank, self._world = rank, world
        self._timeout = config.worker_timeout
        self._pin_memory = pin_memory

    @property
    def micro_batches(self) -> int:
        """Micro-batches per step of this process: its gradient accumulation."""
        return self._batch // self._world // self._micro_batch

    def _plan(self, first_step: int, last_step: int) -> Iterator[Places]:
        for step in range(first_step, last_step):
            yield from step_samples(
                step,
                length=len(self.pictures),
                seed=self._seed,
                batch=self._batch,
                rank=self._rank,
                world=self._world,
                micro_batch=self._micro_batch,
            )

    def _names(self, places: Places) -> list[str]:
        return [self.pictures.key(index) for _, index in places]

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        """The micro-batches of the steps first_step <= step < last_step, counted from 0, in order.

        Each step gives `micro_batches` of them. The worker processes live as long as the iterator.
        Errors: DataError if no picture of a micro-batch can be read; ResourceError if a worker dies
        or delivers nothing for `worker_timeout` seconds. After an error the iterator is finished:
        go on with a new one from the step that was not completed.
        """
        plan = self._plan(first_step, last_step)
        for parcel in _parcels(
            self._samples,
            plan,
            self._names,
            workers=self.workers,
            timeout=self._timeout,
            pin_memory=self._pin_memory,
        ):
            if parcel.batch is None:
                raise _none_readable(parcel.unreadable)
            yield parcel.batch


def evaluate_batches(
    source: ImageSource,
    view: View,
    *,
    channels: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    config: LoaderConfig,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """One ordered pass over exactly this rank's contiguous share, `batch` pictures at a time.

    Nothing is repeated, padded or cached; the last batch may be smaller, and a share may be empty.
    The pictures of a batch of which none can be read are listed in a neighbouring batch.
    Errors: DataError if no picture of the share can be read; ResourceError as for `Loader`.
    """
    _check_filled(source)
    pictures = Pictures(source, channels)
    share = range(len(source) * rank // world, len(source) * (rank + 1) // world)
    plan = [
        [(0, index) for index in share[start : start + batch]]
        for start in range(0, len(share), batch)
    ]
    held: Batch | None = None
    lost: tuple[Unreadable, ...] = ()
    for parcel in _parcels(
        _Samples(pictures, view, seed=0),
        plan,
        lambda places: [pictures.key(index) for _, index in places],
        workers=min(choose_workers(config, world), len(plan) // 2),
        timeout=config.worker_timeout,
        pin_memory=pin_memory,
    ):
        if parcel.batch is None:
            lost += parcel.unreadable
            continue
        if held is not None:
            yield held
        held = parcel.batch._replace(unreadable=lost + parcel.unreadable)
        lost = ()
    if held is not None:
        yield held._replace(unreadable=held.unreadable + lost)
    elif lost:
        raise _none_readable(lost)
