"""A process among others: its standard streams may fail, signals end it, its parent may go away.

A reader may go away (`| head`, a closed terminal), a disk behind a redirection may fill up, a
launcher may start a program with a stream closed. If the output only reports progress, it is then
dropped and the work goes on. If it is the result, the program has to end.
"""

from __future__ import annotations

import ctypes
import errno
import io
import multiprocessing
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from beit.errors import ResourceError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
ONE_REQUEST = 1.0
"""Seconds within which several signals count as one request: schedulers and launchers send them to
a process and to its group, and the kernel may report more than once that a parent is gone."""
STREAMS = {"stdout": 1, "stderr": 2}
PR_SET_PDEATHSIG = 1


class _Descriptor(io.FileIO):
    """A file descriptor that fails at most once; what is written afterwards is dropped."""

    def __init__(self, descriptor: int, *, needed: bool, closed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._needed, self._was_closed = needed, closed
        self.failure: OSError | None = None

    def write(self, data: object, /) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        if self.failure is None:
            try:
                return self._written(view)
            except OSError as error:
                self.failure = error
                if self._needed:
                    raise
        return view.nbytes

    def _written(self, data: memoryview) -> int:
        if self._was_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        while (written := super().write(data)) is None:  # a pipe that somebody made non-blocking
            select.select([], [self], [])
        return written


def take_over(*, result: bool) -> None:
    """Replace the standard streams by ones that cannot end the program, and open closed ones.

    If a closed stream stayed closed, the next file to be opened would take its place, and output
    would be printed into it. Characters that a stream's encoding lacks are written as escapes.

    Args:
        result: Standard output carries what the program is for: if it cannot be written, OSError is
            raised.
    """
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, number in STREAMS.items():
        before: TextIO | None = getattr(sys, name)
        if before is not None:
            before.flush()
        raw = _Descriptor(number, needed=result and name == "stdout", closed=number in closed)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=before.encoding if before is not None else "utf-8",
            errors="backslashreplace",
            line_buffering=name == "stderr" or raw.isatty(),
        )
        setattr(sys, name, stream)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def failure_of(stream: object) -> OSError | None:
    """The error that ended output to a stream that was taken over; None if there was none."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Descriptor) else None


def failures() -> Iterator[tuple[str, OSError]]:
    """The streams that failed, by name, with their errors."""
    for name in STREAMS:
        error = failure_of(getattr(sys, name))
        if error is not None:
            yield name, error


def end_by(number: signal.Signals) -> NoReturn:
    """End this process by a signal, so that a shell sees it end as any other program would."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    raise AssertionError(number)


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal as soon as its parent is gone, however that ended.

    To be exact, as soon as the thread that started it is gone. Only Linux can do this; elsewhere
    nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))


@contextmanager
def ended_together(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """Use a pool whose processes are terminated when this one is interrupted.

    Otherwise an interrupt would wait until they have finished all that was submitted to them.

    Raises:
        ResourceError: One of the processes died.
    """
    with pool as entered:
        try:
            yield entered
        except BrokenExecutor as error:
            raise ResourceError(
                "one of the processes at work ended early: memory ran out, or it was stopped",
                remedy="run it again to continue; with fewer processes if memory ran out",
            ) from error
        except (KeyboardInterrupt, GeneratorExit):
            for process in multiprocessing.active_children():
                process.terminate()
            raise


class StopRequest:
    """Remembers that a signal requested a stop; a second request stops at once.

    Args:
        interrupts: A request, whichever signal it was, also interrupts the work, as Ctrl-C does, so
            that what was begun can be cleaned up on the way out.
    """

    def __init__(self, *, interrupts: bool = False) -> None:
        self.requested = False
        self.signal = signal.SIGINT
        """The signal that requested the stop."""
        self._interrupts, self._owner = interrupts, os.getpid()
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for name in SIGNALS:
            # A program that was started to outlive its terminal, as by nohup, goes on.
            kept = self._interrupts or name == signal.SIGHUP
            if kept and signal.getsignal(name) is signal.SIG_IGN:
                continue
            try:
                self._before[name] = signal.signal(name, self._note)
            except ValueError:  # not the main thread: the caller handles signals
                break
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a fork of this process, with nothing to clean up
            end_by(signal.Signals(number))
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
            self.signal = signal.Signals(number)
            if self._interrupts:
                raise KeyboardInterrupt
        elif time.monotonic() - self._since > ONE_REQUEST:
            self.__exit__()
            signal.raise_signal(number)

    def ignore(self) -> None:
        """Ignore all further requests."""
        for name in self._before:
            signal.signal(name, signal.SIG_IGN)
        self._before.clear()

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
