"""Tables of plain text, in which nothing of a name is read as Rich's markup."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from beit.printable import printable_lines


class TextTable:
    """A table of plain text: a cell may have lines, and nothing in it is markup."""

    def __init__(self, *heads: str, folded: int | None = None) -> None:
        """`folded`: the column whose long words go on in the next line."""
        columns = [Column(_cell(head)) for head in heads]
        if folded is not None:
            columns[folded].overflow = "fold"
        self.rich = Table(*columns)

    def add_row(self, *cells: str) -> None:
        """One cell for each head."""
        self.rich.add_row(*map(_cell, cells))


def print_tables(*tables: TextTable | Table) -> None:
    """Print them one below the other."""
    rich = [table.rich if isinstance(table, TextTable) else table for table in tables]
    Console(markup=False, emoji=False, highlight=False).print(*rich)


def _cell(text: str) -> Text:
    return Text(printable_lines(text))
