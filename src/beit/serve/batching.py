"""One thread that runs the models: what can go together goes as a batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

Work = Callable[[Sequence[Any]], Sequence[Any]]
"""Inputs of several jobs to their results, in the same order."""


class Job:
    """Something to do; jobs of equal `key` may be done together.

    `result` is cancelled by who no longer waits for it.
    """

    def __init__(
        self,
        key: Hashable,
        work: Work,
        item: Any,
        most: int,
        deadline: float,
        result: Future[Any],
    ) -> None:
        self.key = key
        self.work = work
        self.item = item
        self.most = most
        self.deadline = deadline
        self.arrived = time.monotonic()
        self.result = result

    def is_wanted(self) -> bool:
        """Whether anybody still waits for it; from then on it cannot be cancelled."""
        if time.monotonic() > self.deadline:
            self.result.cancel()
        return self.result.set_running_or_notify_cancel()


class Batcher:
    """Does jobs in the order of the oldest of each key, up to `most` at a time.

    A job waits at most `wait` seconds for others of its key. Jobs whose future was cancelled, or
    whose deadline (`time.monotonic`) has passed, are dropped before any work.
    """

    def __init__(self, wait: float, tell: Callable[[int], None]) -> None:
        self._wait = wait
        self._tell = tell
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="models", daemon=True).start()

    def submit(self, job: Job) -> None:
        """Put a job at the end."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def _take(self) -> list[Job]:
        with self._changed:
            while not self._jobs:
                self._changed.wait()
            first = self._jobs[0]
            until = first.arrived + self._wait
            while sum(job.key == first.key for job in self._jobs) < first.most:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            taken = [job for job in self._jobs if job.key == first.key][: first.most]
            for job in taken:
                self._jobs.remove(job)
        return [job for job in taken if job.is_wanted()]

    def _run(self) -> None:
        while True:
            jobs = self._take()
            if not jobs:
                continue
            self._tell(len(jobs))
            try:
                results = jobs[0].work([job.item for job in jobs])
                for job, result in zip(jobs, results, strict=True):
                    job.result.set_result(result)
            except Exception as error:  # the thread lives on; each request is told
                for job in jobs:
                    if not job.result.done():
                        job.result.set_exception(error)
