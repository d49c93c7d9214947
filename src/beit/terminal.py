"""What people read on a terminal or in a log: names from outside have no effect there.

No character of a name moves the cursor, starts a line, or is read as Rich's markup, and none can
fail to be encoded.
"""

from __future__ import annotations

import copy
import logging
import os
import reprlib
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that are shown as escapes: control, format (bidi marks), unpaired surrogates,
and the separators that break a line."""


def printable(name: object) -> str:
    """The name with every invisible character written as an escape.

    Terminal sequences, line breaks, bidi marks and the bytes of file names that are not UTF-8
    become `\\x1b`, `\\n`, `\\u202e` and `\\udcff`. For display only: files are opened by their
    true name.
    """
    text = str(name)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _INVISIBLE
        else character
        for character in text
    )


def printable_lines(text: str) -> str:
    """A text of several lines, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


def print_lines(*lines: object) -> None:
    """Print each argument, made printable, on a line of its own: paths of written files, for
    example."""
    print("\n".join(map(printable, lines)), flush=True)


def counted(amount: int, noun: str) -> str:
    """A number and its noun: `1 image`, `2,000 images`, `3 classes`."""
    ending = "" if amount == 1 else "es" if noun.endswith("s") else "s"
    return f"{amount:,} {noun}{ending}"


def first_few(texts: Sequence[str], limit: int = 3) -> str:
    """The first few of some texts, and how many more there are: `a, b, c and 12 more`."""
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def quoted(names: Sequence[str], limit: int = 3) -> str:
    """The first few names in quotes, each printable."""
    return first_few([f"'{printable(name)}'" for name in names], limit)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxtuple, _SHORT.maxlist = 3, 20, 20
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlong = 40


def shown(value: object) -> str:
    """A value in a message: its `repr`, shortened in the middle if it is long."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a value of type {type(value).__name__} that is too long to print"


def duration(seconds: float) -> str:
    """A time in words: 3h05m, 2m10s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


class PrintableFormatter(logging.Formatter):
    """Formats log records so that no argument starts a line and nothing acts on the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text. Numbers keep the format that the message gives them."""
        safe = copy.copy(record)
        if isinstance(record.args, tuple):
            safe.args = tuple(
                value if isinstance(value, int | float) else printable(value)
                for value in record.args
            )
        return printable_lines(super().format(safe))


def log_to_terminal(level: int = logging.INFO) -> None:
    """Send this package's log messages of at least this level to stderr, made printable."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("beit").setLevel(level)


class TextTable:
    """A table of plain text: a cell may have several lines, and nothing in it is markup."""

    def __init__(self, *heads: str, folded: int | None = None) -> None:
        """`folded` is the index of a column whose long words are wrapped instead of cut."""
        from rich.table import Column, Table

        columns = [Column(_cell(head)) for head in heads]
        if folded is not None:
            columns[folded].overflow = "fold"
        self.rich = Table(*columns)

    def add_row(self, *cells: str) -> None:
        """Add a row, with one cell for each head."""
        self.rich.add_row(*map(_cell, cells))


def print_tables(*tables: TextTable | Table) -> None:
    """Print tables one below the other."""
    from rich.console import Console

    rich = [table.rich if isinstance(table, TextTable) else table for table in tables]
    Console(markup=False, emoji=False, highlight=False).print(*rich)


class LiveBar:
    """A bar at the bottom of a terminal, below lines that scroll: steps done, a remark, time
    left."""

    def __init__(self, total: int, done: int = 0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            TimeLeft(compact=True),
            console=console,
            auto_refresh=False,  # no thread that a lost terminal could end
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=total, completed=done)
        self._drawn = 0.0
        self._bar.start()

    def move(self, done: int) -> None:
        """Set the number of steps done; the bar is redrawn five times a second at most."""
        self._bar.update(self._task, completed=done)
        if time.monotonic() - self._drawn >= 0.2:
            self._drawn = time.monotonic()
            self._bar.refresh()

    def remark(self, text: str) -> None:
        """Set the text beside the bar."""
        self._bar.update(self._task, description=printable(text))
        self._bar.refresh()

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


def is_live(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor, so that a person may be watching."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def _cell(text: str) -> Text:
    from rich.text import Text

    return Text(printable_lines(text))
