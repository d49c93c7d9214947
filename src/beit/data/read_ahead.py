"""Fetches shards before they are needed, in a separate process beside those that read."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from beit.config.data import LoaderConfig
from beit.data.shard_cache import GIGABYTE, ShardCache
from beit.data.sources import ImageSource, Sharded, Shards, shards_of
from beit.data.workers import Places, serve_parent, start
from beit.errors import ConfigError

logger = logging.getLogger(__name__)

AT_A_TIME = 4
"""Shards that one process fetches at a time: a single connection to object storage is slower than
the network."""


class WholeShards(NamedTuple):
    """Images whose shards are fetched as a whole."""

    source: ImageSource
    shards: Shards
    cache: ShardCache


def whole_shards(
    source: ImageSource, config: LoaderConfig, at_once: int | None, *, needed: bool
) -> WholeShards | None:
    """The source with its remote shards fetched as a whole, if that pays: it has some, at least
    half of their images are read, and the shards that are read at once fit in the cache. Else None.

    Args:
        source: The images.
        config: Says where the cache is, and its size.
        at_once: How many shards are read at once; None for all.
        needed: Whether it is an error if they do not fit.

    Raises:
        ConfigError: They do not fit, although that is needed.
    """
    shards = shards_of(source)
    if shards is None or not shards.remote:
        return None
    touched = shards.counts > 0
    if 2 * len(source) < int(shards.images[touched].sum()):
        return None
    sizes = np.array([shard.size for shard in shards.shards], np.int64)[touched]
    required = int(np.sort(sizes)[::-1][:at_once].sum())
    cache = ShardCache.at(config.cache_dir, config.cache_size)
    if required <= cache.limit:
        assert isinstance(source, Sharded)
        return WholeShards(source.through(cache), shards, cache)
    if needed:
        raise ConfigError(
            f"the shards that are mixed at a time take {required / GIGABYTE:.1f} GB, and "
            f"{cache.folder} may hold {cache.limit / GIGABYTE:.1f} GB of them",
            remedy=f"use --cache-size {2 * required / GIGABYTE:.1f}, with which the next ones are "
            "fetched ahead, pack smaller shards, or use --order full",
        )
    return None


@contextmanager
def fetched_ahead(
    whole: WholeShards | None, plan: Iterable[Places], most: int
) -> Iterator[Callable[[int], None]]:
    """Within this context, a process fetches shards in the order in which they are needed, as far
    ahead as the cache has room, and keeps each until its last image has been used.

    No reader depends on it: one that needs a shard which is not there fetches it.

    Args:
        whole: The images and their shards; None to fetch nothing.
        plan: The micro-batches in order.
        most: How many micro-batches ahead of the reader shards are fetched at most.

    Yields:
        A function to be called with the number of micro-batches that have been used.
    """
    if whole is None:
        yield lambda _: None
        return
    connection, theirs = multiprocessing.Pipe()
    forked = multiprocessing.get_context("fork")  # a plan cannot be pickled
    ahead = _Ahead(theirs, whole, plan, most)
    process = forked.Process(target=_run, args=(ahead, connection), daemon=True)
    start(process)
    theirs.close()

    def used(micro_batches: int) -> None:
        with suppress(OSError):  # the process is gone, and the readers fetch what they need
            connection.send(micro_batches)

    try:
        yield used
    finally:
        process.kill()  # the kernel releases its locks
        process.join()
        connection.close()


def _run(ahead: _Ahead, parents: Connection) -> None:
    parents.close()
    serve_parent()
    ahead.run()


class _Ahead:
    """The work of that process: one thread follows the plan, some fetch, the main one listens."""

    def __init__(
        self, connection: Connection, whole: WholeShards, plan: Iterable[Places], most: int
    ) -> None:
        self._connection, self._whole, self._plan, self._most = connection, whole, plan, most
        self._done = 0
        self._changed = threading.Condition()
        self._kept: dict[int, Future[int | None]] = {}
        """The shards that are kept or being fetched, each with the handle of its lock."""
        self._last: dict[int, int] = {}
        """The last micro-batch so far in the plan that reads from each of them."""

    def run(self) -> None:
        threading.Thread(target=self._look, daemon=True).start()
        with suppress(EOFError, OSError):
            while True:
                self._advance(self._connection.recv())

    def _advance(self, done: int) -> None:
        with self._changed:
            self._done = done
            for number in [one for one, last in self._last.items() if last < done]:
                kept = self._kept[number]
                if kept.done():
                    handle = None if kept.exception() else kept.result()
                    if handle is not None:
                        self._whole.cache.release(handle)
                    del self._kept[number], self._last[number]
            self._changed.notify_all()

    def _look(self) -> None:
        assert isinstance(self._whole.source, Sharded)
        outstanding: deque[Future[int | None]] = deque()
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            for at, places in enumerate(self._plan):
                indices = np.array([index for _, index in places], np.int64)
                needed = self._whole.source.shard_numbers(indices)
                for number in dict.fromkeys(needed.tolist()):
                    with self._changed:
                        while at >= self._done + self._most:
                            self._changed.wait()
                        self._last[number] = at
                        if number in self._kept:
                            continue
                        kept = self._kept[number] = threads.submit(self._keep, number)
                    outstanding.append(kept)
                    if len(outstanding) > AT_A_TIME:  # those needed first are to get room first
                        outstanding.popleft().exception()

    def _keep(self, number: int) -> int | None:
        """Fetch a shard once there is room, and return the handle of its lock. None if it cannot be
        fetched, which its readers will report, or is no longer needed."""
        while True:
            with self._changed:
                done = self._done
            try:
                handle = self._whole.cache.pin(self._whole.shards.shards[number])
            except OSError as error:
                logger.warning("%s", error)
                return None
            if handle is not None:
                return handle
            with self._changed:
                while self._done == done:
                    self._changed.wait()
                if self._last[number] < self._done:
                    return None
