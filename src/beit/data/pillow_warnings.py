"""Pillow's warnings, silenced while images are decoded: what is wrong is in our own errors."""

from __future__ import annotations

import logging
import threading
import warnings
from types import TracebackType

_LOGGER = logging.getLogger("PIL")


class PillowIsQuiet:
    """Silences Pillow's own warnings while any thread decodes, and what it logs.

    `warnings.catch_warnings` restores the filters it found, so overlapping uses from several
    threads could leave the wrong ones behind; here only the first in and the last out touch them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher = warnings.catch_warnings()
        self._level = logging.NOTSET

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._level = _LOGGER.level
                _LOGGER.setLevel(logging.CRITICAL + 1)
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _LOGGER.setLevel(self._level)
                self._catcher.__exit__(kind, error, trace)


quiet = PillowIsQuiet()
"""For all threads of this process."""
