"""What people read on a terminal or in a log: names from outside never act there.

No character of a name moves the cursor, starts a line, or is read as Rich's markup, and none can
fail to be encoded.
"""

from __future__ import annotations

import copy
import logging

from beit.printable import printable, printable_lines


def log_to_terminal(level: int = logging.INFO) -> None:
    """Messages of this package go to stderr, from a level on, made printable."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("beit").setLevel(level)


class PrintableFormatter(logging.Formatter):
    """Lines of a log, in which no argument starts a line and nothing acts on the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        safe = copy.copy(record)
        if isinstance(record.args, tuple):
            safe.args = tuple(_safe(value) for value in record.args)
        return printable_lines(super().format(safe))


def _safe(value: object) -> object:
    """Numbers are formatted by what the message says; anything else is text."""
    return value if isinstance(value, int | float) else printable(value)


def print_lines(*lines: object) -> None:
    """Print each on a line of its own, such as paths that were written, made printable."""
    print("\n".join(map(printable, lines)))
