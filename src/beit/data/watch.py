"""Looks after the worker processes of one of torch's iterators until they are gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

GRACE_SECONDS = 30
DYING_SECONDS = 3


class Watch:
    """Hands on what an iterator gives; one that gives nothing for too long loses its workers.

    torch's own timeout ends once something has arrived. What a worker sends is then fetched from
    it, and one that stopped just there would be waited for without end.
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
        while True:
            self._since = time.monotonic()
            try:
                item = next(self._iterator)
            except StopIteration:
                return
            finally:
                self._since = None
            yield item

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
        if self._workers and self._iterator._worker_pids_set:
            torch._C._remove_worker_pids(id(self._iterator))  # else torch calls it a failure
            self._iterator._worker_pids_set = False
        self._kill()
        for worker in self._workers:
            worker.join(GRACE_SECONDS)
