"""Worker processes that read images: each answers requests for micro-batches over its own socket.

Pixels are received from the socket straight into (page-locked) memory of the training process, so
that no shared memory is needed. A worker that dies closes its socket; one that hangs delivers
nothing in time. Whoever waits for a batch notices both, and nothing else watches the workers.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import multiprocessing
import os
import queue
import signal
import socket
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from beit.batch import Batch, Unreadable, map_tensors
from beit.config.data import LoaderConfig
from beit.errors import ResourceError
from beit.process import end_with_parent
from beit.terminal import quoted

REQUESTS = 2
"""Micro-batches that are requested of each worker ahead of time."""
GRACE_SECONDS = 30
"""How long to wait for a killed process to end, which only a blocked disk access delays."""

Places = list[tuple[int, int]]
"""The (epoch, index) pairs of a micro-batch."""
Read = Batch | list[Unreadable]
"""A micro-batch; or, if none of its images can be read, the reasons."""

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """Reads micro-batches in the workers, to which it is sent once."""

    def read(self, places: Places) -> Read: ...

    def names(self, places: Places) -> list[str]:
        """The names of the images, for messages."""


class _LostError(Exception):
    """A worker process died, or none delivered anything in time."""

    def __init__(self, problem: str, *, hung: bool = False) -> None:
        self.hung = hung
        super().__init__(problem)


def read_batches(
    reader: Reader,
    plan: Callable[[int], Iterable[Places]],
    workers: int,
    config: LoaderConfig,
    *,
    pin_memory: bool,
    on_restart: Callable[[], None] = lambda: None,
) -> Iterator[Read]:
    """The micro-batches of the plan, in order, each once.

    When a worker process dies, or no batch arrives for `worker_timeout` seconds, all workers are
    replaced, and the new ones begin with the first micro-batch that was not delivered. Nothing is
    lost, as a sample depends on its (epoch, index) alone.

    Args:
        reader: Reads a micro-batch, in this process or in a worker.
        plan: Returns the micro-batches in order, after a given number of first ones.
        workers: The number of processes that read; with 0 this process does.
        config: How long to wait for a worker, and how often they may be replaced.
        pin_memory: Return batches in page-locked memory, if there is a GPU.
        on_restart: Called each time workers are replaced.

    Raises:
        ResourceError: Workers were lost more than `worker_restarts` times.
    """
    pin = pin_memory and torch.cuda.is_available()
    if workers == 0:
        for places in plan(0):
            found = reader.read(places)
            if pin and not isinstance(found, list):
                found = map_tensors(found, Tensor.pin_memory)
            yield found
        return
    delivered = 0
    for attempt in itertools.count(1):
        pool = _Workers(reader, iter(plan(delivered)), workers, config.worker_timeout, pin)
        try:
            for found in pool.batches():
                delivered += 1
                yield found
            return
        except _LostError as lost:
            failure = _described(lost, reader.names(next(iter(plan(delivered)), [])))
            if attempt > config.worker_restarts:
                raise failure from None
        finally:
            pool.end()
        on_restart()
        logger.warning(
            "%s: it is read again by new processes (%d of at most %d times)",
            failure.problem, attempt, config.worker_restarts,
        )  # fmt: skip


def _described(lost: _LostError, waiting_for: list[str]) -> ResourceError:
    if not lost.hung:
        return ResourceError(
            f"a process that reads images died: {lost}",
            remedy="most often memory ran out: use fewer workers or no cache; with workers 0 the "
            "error shows itself",
        )
    first = f"; the batch waited for starts with {quoted(waiting_for)}" if waiting_for else ""
    return ResourceError(
        f"no image came for the whole worker_timeout{first}",
        remedy="check the disk or network the images lie on, or raise worker_timeout",
    )


class _Worker:
    """A worker process, and this end of its socket."""

    def __init__(self, reader: Reader) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=_work, args=(theirs, reader), daemon=True)
        start(self.process)
        theirs.close()  # only the worker holds this end, so that its death ends the connection
        self._pixels = socket.socket(fileno=os.dup(self.connection.fileno()))

    def receive(self, pin: bool) -> Read | Exception:
        """The next answer. Raises EOFError or OSError if the worker has died."""
        answer: Read | Exception = self.connection.recv()
        if isinstance(answer, list | Exception):
            return answer

        def fill(described: Tensor) -> Tensor:
            tensor = torch.empty(described.shape, dtype=described.dtype, pin_memory=pin)
            free = _bytes_of(tensor)
            while free:
                # In one call, as it is slow to acquire the interpreter lock after each piece.
                count = self._pixels.recv_into(free, len(free), socket.MSG_WAITALL)
                if not count:
                    raise EOFError
                free = free[count:]
            return tensor

        return map_tensors(answer, fill)

    def cause_of_death(self) -> str:
        self.process.join(GRACE_SECONDS)
        code = self.process.exitcode
        ended = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        return f"worker {self.process.pid} ended by {ended}"

    def kill(self) -> None:
        """End the worker at once, as it may hang; it holds nothing that must be cleaned up."""
        self.process.kill()
        self._pixels.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.process.join(GRACE_SECONDS)
        self._pixels.close()
        self.connection.close()


def _bytes_of(tensor: Tensor) -> memoryview:
    values: np.ndarray = tensor.view(-1).view(torch.uint8).numpy()
    return values.data


def start(process: BaseProcess) -> None:
    """Start a process that reads or fetches images."""
    with warnings.catch_warnings():
        # Safe although this process has threads: the new one uses neither them nor its devices.
        warnings.filterwarnings("ignore", message=".*use of fork\\(\\) may lead to deadlocks")
        process.start()


def serve_parent() -> None:
    """Make this process, started by `start`, end with its parent and ignore signals to stop. Such
    signals may reach the whole process group; the parent handles them, and may still need batches
    to finish a step."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _work(connection: Connection, reader: Reader) -> None:
    """Answer requests until the parent has gone."""
    serve_parent()
    torch.set_num_threads(1)
    try:
        while True:
            _send(connection, _answer(reader, connection.recv()))
    except (EOFError, ConnectionError):
        return


def _answer(reader: Reader, places: Places) -> Read | Exception:
    try:
        return reader.read(places)
    except Exception as error:  # any error is raised again in the training process
        error.add_note(f"in a process that reads images:\n{traceback.format_exc()}")
        try:
            ForkingPickler.loads(ForkingPickler.dumps(error))  # as the connection does
        except Exception:  # not every type of error can be rebuilt from its message
            return RuntimeError(traceback.format_exc())
        return error


def _send(connection: Connection, answer: Read | Exception) -> None:
    """Send the answer with tensors that have only shape and type, then the bytes of each."""
    tensors: list[Tensor] = []

    def describe(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor.to("meta")

    if not isinstance(answer, list | Exception):
        answer = map_tensors(answer, describe)
    connection.send(answer)
    for tensor in tensors:
        left = _bytes_of(tensor.contiguous())
        while left:
            left = left[os.write(connection.fileno(), left) :]


class _Workers:
    """One set of workers, and a thread that receives from them in turn."""

    def __init__(
        self, reader: Reader, plan: Iterator[Places], number: int, timeout: float, pin: bool
    ) -> None:
        self._reader, self._plan, self._number = reader, plan, number
        self._timeout, self._pin = timeout, pin
        self._device = torch.cuda.current_device() if pin else 0
        self._workers: list[_Worker] = []
        self._waiting: deque[_Worker] = deque()
        """The workers in the order of their answers, one entry for each request."""
        self._received: queue.Queue[Read | Exception | None] = queue.Queue(number)
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._owner = os.getpid()

    def batches(self) -> Iterator[Read]:
        """Start the workers, and yield the micro-batches in the order of the plan.

        Raises _LostError if a worker dies or hangs, and any error that occurs in a worker.
        """
        atexit.register(self.end)  # otherwise multiprocessing would wait at exit for them to end
        for _ in range(self._number):
            self._workers.append(_Worker(self._reader))
        self._thread.start()
        while True:
            try:
                found = self._received.get(timeout=self._timeout)
            except queue.Empty:
                raise _LostError("no answer in time", hung=True) from None
            if found is None:
                return
            if isinstance(found, Exception):
                raise found
            yield found

    def _request(self, worker: _Worker) -> None:
        places = next(self._plan, None)
        if places is not None:
            self._waiting.append(worker)
            worker.connection.send(places)

    def _receive(self) -> None:
        try:
            if self._pin:
                torch.cuda.set_device(self._device)  # otherwise this thread would use the first GPU
            for worker in self._workers * REQUESTS:
                self._request(worker)
            while self._waiting:
                worker = self._waiting.popleft()
                self._received.put(worker.receive(self._pin))
                self._request(worker)
            self._received.put(None)
        except (EOFError, ConnectionError):
            self._received.put(_LostError(worker.cause_of_death()))
        except Exception as error:
            self._received.put(error)

    def end(self) -> None:
        """End the workers at once, and the thread."""
        if os.getpid() != self._owner:
            return  # a forked copy of this process, at its exit
        atexit.unregister(self.end)
        for worker in self._workers:
            worker.kill()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._received.get_nowait()  # the thread may wait for room in the queue
            self._thread.join(0.01)
        for worker in self._workers:
            worker.close()
