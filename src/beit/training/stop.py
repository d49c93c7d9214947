"""Requests to stop: Ctrl-C, a scheduler's warning, a preemption."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Remembers that a signal asked to stop; the second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            self._before = {name: signal.signal(name, self._note) for name in SIGNALS}
        except ValueError:  # not the main thread: the caller handles signals
            self._before = {}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
