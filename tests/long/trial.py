"""A fault, what is promised, and how it is tried."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

Try = Callable[[], None]
"""Brings the fault about once; raises if the promise was not kept."""


class Trial(NamedTuple):
    """A fault and its promise; `tries(folder, count)` are that many ways in which it happens."""

    fault: str
    promise: str
    count: int
    """How often it is tried in earnest."""
    tries: Callable[[Path, int], Iterator[Try]]


def speak_through(pipe: int) -> None:
    """What is printed from here on goes to a pipe, line by line."""
    sys.stdout = os.fdopen(pipe, "w", buffering=1)


def die() -> None:
    """End this process without another instruction."""
    os.kill(os.getpid(), signal.SIGKILL)
