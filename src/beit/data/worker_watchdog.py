"""Looks after the worker processes of one of torch's iterators until they are gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

GRACE_SECONDS = 30
DYING_SECONDS = 3
POLL_SECONDS = 1.0
"""torch looks that often whether a worker is gone, while it waits."""
TIMED_OUT = "DataLoader timed out"


class Watch:
    """Hands on what an iterator gives; one that gives nothing for too long loses its workers.

    torch's own timeout ends once something has arrived. What a worker sends is then fetched from
    it, and one that stopped just there would be waited for without end. The death of a worker
    interrupts the process only while it waits here: elsewhere it would break what has no part in
    it, and what the worker had to do is missed here soon enough.
    """

    def __init__(self, iterator: Any, seconds: float) -> None:
        self._iterator = iterator
        self._seconds = seconds
        self._workers = list(getattr(iterator, "_workers", ()))  # torch gives no other way to them
        self._since: float | None = None
        self._ended = threading.Event()
        self.hung = False
        """Whether the workers were ended because nothing came."""
        if self._workers:
            threading.Thread(target=self._watch, daemon=True).start()

    def items(self) -> Iterator[Any]:
        """What the iterator gives."""
        self._heed(False)
        while True:
            self._since = time.monotonic()
            try:
                self._heed(True)
                item = self._next(self._since + self._seconds)
            except StopIteration:
                return
            finally:
                self._heed(False)
                self._since = None
            yield item

    def _next(self, latest: float) -> Any:
        while True:
            try:
                return next(self._iterator)
            except RuntimeError as error:
                if TIMED_OUT not in str(error) or time.monotonic() >= latest:
                    raise

    def _heed(self, deaths: bool) -> None:
        """Whether torch's signal handler raises an error in this process when a worker dies."""
        if self._workers and deaths != self._iterator._worker_pids_set:
            if deaths:
                pids = tuple(worker.pid for worker in self._workers)
                torch._C._set_worker_pids(id(self._iterator), pids)
            else:
                torch._C._remove_worker_pids(id(self._iterator))
            self._iterator._worker_pids_set = deaths

    def _watch(self) -> None:
        while not self._ended.wait(min(self._seconds / 4, 1)):
            since = self._since
            if since is not None and time.monotonic() - since > 1.5 * self._seconds:
                self.hung = True
                self._kill()
                return

    def one_died(self) -> bool:
        """Whether a worker is gone while the iterator is not at its end. One that dies closes its
        connections first, so it is given a moment."""
        latest = time.monotonic() + DYING_SECONDS
        while self._workers and time.monotonic() < latest:
            if not all(worker.is_alive() for worker in self._workers):
                return True
            time.sleep(0.01)
        return False

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.is_alive():
                worker.kill()

    def end(self) -> None:
        """End the workers at once: one that is stopped, or waits for a lock of a dead one, heeds no
        request, and the end of this process would wait for it."""
        self._ended.set()
        self._heed(False)  # else torch calls it a failure
        self._kill()
        for worker in self._workers:
            worker.join(GRACE_SECONDS)
