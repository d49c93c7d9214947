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


def in_a_child(action: Callable[[], None]) -> int:
    """Do something in a process of its own; how it ended, as `Popen.returncode` tells it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def speak_through(pipe: int) -> None:
    """What is printed from here on goes to a pipe, line by line."""
    sys.stdout = os.fdopen(pipe, "w", buffering=1)


def die() -> None:
    """End this process without another instruction."""
    os.kill(os.getpid(), signal.SIGKILL)
