"""Requests to stop: Ctrl-C, a scheduler's warning, a preemption, a terminal that is closed."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
ONE_REQUEST = 1.0
"""Seconds within which several signals are one request: schedulers and launchers send them to a
process and to its group, and the kernel says more than once that a parent is gone."""


class StopRequest:
    """Remembers that a signal asked to stop; a second request stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self._before = {
                name: signal.signal(name, self._note) for name in SIGNALS if not _outlives(name)
            }
        except ValueError:  # not the main thread: the caller handles signals
            self._before = {}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > ONE_REQUEST:
            self._put_back()
            signal.raise_signal(number)

    def __exit__(self, *_: object) -> None:
        self._put_back()

    def _put_back(self) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)


def _outlives(name: signal.Signals) -> bool:
    """Whether the run was started to go on when its terminal is closed, as by nohup."""
    return name == signal.SIGHUP and signal.getsignal(name) is signal.SIG_IGN
