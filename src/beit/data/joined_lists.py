"""A label file with the columns of other lists of its images: joined by the column they share.

So are CUB-200 and NABirds published: `images.txt` with a number for each image, and for these
numbers `image_class_labels.txt` and `train_test_split.txt`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from beit.config.data import LabelFileConfig
from beit.data.image_names import ImageNames
from beit.data.label_columns import has_headings, is_heading
from beit.data.tables import Row, Table, read_table
from beit.errors import ConfigError, DataError
from beit.terminal import quoted


class _Keys(NamedTuple):
    """Names that are found: those by which a list is joined."""

    known: Collection[str]

    def as_written(self, name: str) -> bool:
        return name in self.known

    def find(self, name: str) -> bool:
        return name in self.known


def read_joined(
    path: str, names: ImageNames, config: LabelFileConfig
) -> tuple[Table, tuple[str, ...]]:
    """The rows of a label file, with the columns of the lists that its config joins; and notes.

    Errors: as `read_table`; DataError for a list that shares no column with the file, or not for
    all of its rows; ConfigError for one that is not there.
    """
    table, notes = read_table(path, names, is_heading), list[str]()
    if not config.join:
        return table, ()
    headed = table.keyed or has_headings(table.rows, names, config)
    width = max(len(row.cells) for row in table.rows)
    headings = table.rows[0].cells if headed else [""] * width
    rows = [row._replace(cells=_filled(row, width)) for row in table.rows[headed:]]
    for name in config.join:
        added, more, key = _columns(path, rows, name)
        headings = headings + added
        rows = [row._replace(cells=row.cells + more[row.cells[key]]) for row in rows]
        notes.append(f"joined from {name}: {quoted(added, 8)}")
    return table._replace(rows=[Row(0, headings), *rows], keyed=True), tuple(notes)


def _columns(
    path: str, rows: Sequence[Row], name: str
) -> tuple[list[str], dict[str, list[str]], int]:
    """The headings that a list adds, its cells by key, and which column of the file is the key."""
    place = Path(path).parent / name
    if not place.is_file():
        raise ConfigError(
            f"join names {name}, and there is no such file beside {path}",
            remedy="give its path relative to that of the label file",
        )
    keys = {at: {row.cells[at] for row in rows} for at in range(len(rows[0].cells))}
    keys = {at: cells for at, cells in keys.items() if len(cells) == len(rows)}
    names = _Keys(set[str]().union(*keys.values()))
    other = read_table(str(place), names, is_heading).rows
    for at, cells in keys.items():
        for column in range(len(other[0].cells)):
            found = [row.cells[column] for row in other if row.cells[column:]]
            if cells <= {*found} and len({*found}) == len(found):
                headed = found[0] not in cells and _is_headed(other, names)
                titles = other[0].cells if headed else [place.stem] * len(other[0].cells)
                more = {row.cells[column]: _without(_filled(row, len(titles)), column)
                        for row in other if row.cells[column:]}  # fmt: skip
                return _without(titles, column), more, at
    raise DataError(
        f"{place} has no column with one row for each of the {len(rows)} rows of {path}",
        remedy="join lists that name each image once, as the label file does or by its number",
    )


def _is_headed(rows: list[Row], names: _Keys) -> bool:
    """Whether the first row is headings: none of its cells comes again below it, as those do of an
    image that the label file does not name."""
    again = any(cell in row.cells[at : at + 1] for row in rows[1:]
                for at, cell in enumerate(rows[0].cells))  # fmt: skip
    return not again and has_headings(rows, names, LabelFileConfig())


def _filled(row: Row, width: int) -> list[str]:
    return row.cells + [""] * (width - len(row.cells))


def _without(cells: Sequence[str], column: int) -> list[str]:
    return [*cells[:column], *cells[column + 1 :]]


def list_to_join(path: str, cell: str, names: ImageNames) -> str:
    """The list beside a file that names the image which a row of the file only numbers; empty if
    there is none."""
    number = cell.split()[0] if cell.split() else ""
    return next((name for name, words in _first_lines(path)
                 if words[0] == number and any(map(names.find, words[1:]))), "")  # fmt: skip


def _first_lines(path: str) -> Iterator[tuple[str, list[str]]]:
    """The lists beside a file, with the words of their first lines."""
    for place in sorted(Path(path).parent.glob(f"*{Path(path).suffix}")):
        if place.name != Path(path).name and place.is_file():
            with place.open(encoding="utf-8", errors="surrogateescape") as file:
                yield place.name, re.split(r"[\s,;|]+", file.readline().strip())
