"""The cells of a column of labels: one class, several tags, or zeros and ones."""

from __future__ import annotations

import ast
import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from beit.config.label_file import LabelFileConfig, LabelSeparator
from beit.data.label_columns import LABEL, PERHAPS_LABEL, SEVERAL, Columns, plain
from beit.data.listing import natural_key, quoted
from beit.data.tables import as_text, cell_lines
from beit.errors import DataError
from beit.terminal import printable

MARKS: dict[LabelSeparator, str] = {"pipe": "|", "semicolon": ";", "comma": ",", "space": " "}
"""In the order in which they are looked for."""
MOST_FRACTIONS = 10
MOST_NUMBERS = 20
IMAGES_PER_NUMBER = 5
TRUE = {"true", "yes"}
FALSE = {"false", "no"}


class Labels(NamedTuple):
    """The label of every row: class ids, int64 [n], or of several labels per image, bool [n, C];
    -1 or a row of zeros where a row was not read."""

    classes: tuple[str, ...]
    targets: np.ndarray
    rows: frozenset[int]
    """Those that were read."""
    layout: str
    """Where they were found."""
    notes: tuple[str, ...] = ()


def is_switch(cells: Sequence[str]) -> bool:
    """Whether cells hold only zeros and ones, or only -1 and 1."""
    values = {_switch(cell) for cell in set(cells)}
    return values <= {0, 1} or values <= {-1, 1}


def _switch(cell: str) -> float | None:
    lower = cell.lower()
    if lower in TRUE or lower in FALSE:
        return float(lower in TRUE)
    return number_of(cell)


def number_of(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class LabelReader:
    """Reads the cells of some rows: of one column, or of one for each class."""

    def __init__(
        self, path: str, columns: Columns, rows: Sequence[int], config: LabelFileConfig
    ) -> None:
        self._path, self._columns, self._rows, self._config = path, columns, rows, config
        self._below, self._read = len(columns.rows), frozenset(rows)

    def zeros_and_ones(self, places: Sequence[int]) -> Labels:
        """A column for each class. Where every image has one class it is plain classification."""
        columns = self._columns
        names = [_label(columns.headings[at]) or str(at + 1) for at in places]
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            called = quoted([*map(printable, twice)])
            raise DataError(
                f"more than one column of {self._path} is called {called}",
                remedy="give each class a heading of its own",
            )
        order = sorted(range(len(places)), key=lambda at: natural_key(names[at]))
        values = np.zeros((len(self._rows), len(places)))
        for to, at in enumerate(order):
            values[:, to] = self._switches(places[at])
        if values.min(initial=0) < 0 and (values == 0).any():
            raise DataError(
                f"the columns of the classes in {self._path} hold -1, 0 and 1",
                remedy="write 0 and 1 only: decide what -1 stands for",
            )
        flags = values > 0
        classes = tuple(names[at] for at in order)
        never = [name for at, name in enumerate(classes) if not flags[:, at].any()]
        notes = (f"no image is of {quoted([*map(printable, never)], 8)}",) if never else ()
        layout = f"a column of zeros and ones for each of {len(classes)} classes"
        if (flags.sum(axis=1) == 1).all():
            kept = np.flatnonzero(flags.any(axis=0))
            targets = np.full(self._below, -1, np.int64)
            targets[list(self._rows)] = flags[:, kept].argmax(axis=1)
            classes = tuple(classes[at] for at in kept)
            layout += ", one of them for every image"
            return Labels(classes, targets, self._read, layout, notes)
        layout += ", any number per image"
        return Labels(classes, self._flagged(flags), self._read, layout, notes)

    def one_column(self, column: int) -> Labels:
        """Classes, or tags where a cell holds several."""
        cells = [_label(self._columns.rows[row].cells[column]) for row in self._rows]
        bare = [row for row, cell in zip(self._rows, cells, strict=True) if is_missing(cell)]
        if bare:
            lines = [self._place(row) for row in bare]
            raise DataError(
                f"{len(bare)} of the {len(cells)} images in {self._path} have no label: "
                + cell_lines(lines),
                remedy="label every line, or remove those without a label; images with "
                "none of several labels need a column of 0 and 1 for each label",
            )
        where = f"labels in {self._columns.name(column)}"
        notes: tuple[str, ...] = ()
        if any(not _is_utf8(self._columns.rows[row].cells[column]) for row in self._rows):
            notes = ("labels that are not UTF-8 are read as Windows-1252",)
        mark = self._mark(column, cells)
        if mark is not None:
            return self._tags(cells, mark, f"several {where}", notes)
        cells, note = _whole(cells)
        self._check_numbers(column, cells)
        self._check_different(column, cells)
        classes = tuple(sorted(set(cells), key=natural_key))
        ids = {name: index for index, name in enumerate(classes)}
        targets = np.full(self._below, -1, np.int64)
        targets[list(self._rows)] = [ids[cell] for cell in cells]
        return Labels(classes, targets, self._read, where, (*notes, *note, *_alike(classes)))

    def _place(self, row: int) -> tuple[int, str]:
        found = self._columns.rows[row]
        return found.line, found.cells[self._columns.image]

    def _switches(self, column: int) -> list[float]:
        cells = [self._columns.rows[row].cells[column] for row in self._rows]
        values = [_switch(cell) for cell in cells]
        wrong = [
            (self._columns.rows[row].line, cell or "empty")
            for row, cell, value in zip(self._rows, cells, values, strict=True)
            if value not in (-1, 0, 1)
        ]
        if wrong:
            raise DataError(
                f"{self._columns.name(column)} of {self._path} holds other cells than 0 and 1: "
                + cell_lines(wrong),
                remedy="write 1 where the class is right for the image, and 0 elsewhere",
            )
        return [value for value in values if value is not None]

    def _flagged(self, flags: np.ndarray) -> np.ndarray:
        targets = np.zeros((self._below, flags.shape[1]), bool)
        targets[list(self._rows)] = flags
        return targets

    def _tags(self, cells: list[str], mark: str, layout: str, notes: tuple[str, ...]) -> Labels:
        tags = [_split(cell, mark) for cell in cells]
        classes = tuple(sorted({tag for each in tags for tag in each}, key=natural_key))
        ids = {name: index for index, name in enumerate(classes)}
        flags = np.zeros((len(cells), len(classes)), bool)
        for row, each in enumerate(tags):
            flags[row, [ids[tag] for tag in each]] = True
        between = next(name for name, character in MARKS.items() if character == mark)
        layout = f"{layout}, separated by {between}"
        return Labels(classes, self._flagged(flags), self._read, layout, (*notes, *_alike(classes)))

    def _mark(self, column: int, cells: list[str]) -> str | None:
        """What stands between labels of one cell; None where every cell is one label."""
        option = self._config.label_separator
        if option != "auto":
            return MARKS.get(option)
        several = plain(self._columns.headings[column]) in SEVERAL
        tagged = plain(self._columns.headings[column]) in ("tag", "tags", "keywords")
        different = dict.fromkeys(cells)
        if several and any(cell.startswith("[") and cell.endswith("]") for cell in different):
            return ","
        for mark in MARKS.values():
            broken = [cell for cell in different if len(_split(cell, mark)) > 1]
            if not broken or (mark == " " and not several):
                continue
            alone = any(tag in different for cell in broken for tag in _split(cell, mark))
            if several and (tagged or mark != " " or alone):
                return mark
            if several or alone:
                raise self._undecided(column, broken[0], mark)
        return None

    def _undecided(self, column: int, cell: str, mark: str) -> DataError:
        name = next(name for name, character in MARKS.items() if character == mark)
        return DataError(
            f"'{printable(cell)}' in {self._columns.name(column)} of {self._path} may be one label "
            f"or several, {quoted([*map(printable, _split(cell, mark))])}",
            remedy=f"say with --label-separator {name} that these are several labels, or with "
            "--label-separator none that a cell is one",
        )

    def _check_different(self, column: int, cells: list[str]) -> None:
        """DataError for descriptions: a heading that is not known over cells that all differ."""
        known = plain(self._columns.headings[column]) in (*LABEL, *PERHAPS_LABEL)
        named = known or bool(self._config.label_column)
        headed = any(self._columns.headings)
        if not named and headed and len(cells) == len(set(cells)) > 2:
            raise DataError(
                f"every cell of {self._columns.name(column)} of {self._path} is different: "
                f"{quoted([*map(printable, cells)])}",
                remedy="name the column of the classes with --label-column",
            )

    def _check_numbers(self, column: int, cells: list[str]) -> None:
        """DataError for numbers that are measurements, and no classes."""
        different = set(cells)
        numbers = [number_of(cell) for cell in different]
        values = {value for value in numbers if value is not None}
        if len(values) < len(different) or not values:
            return
        if any(value != int(value) for value in values):
            measured = len(values) > MOST_FRACTIONS or (
                len(values) == len(cells) and len(values) > 2
            )
        else:
            counted = max(values) - min(values) == len(values) - 1 and min(values) in (0, 1)
            measured = (
                not counted
                and not self._config.label_column
                and len(values) > MOST_NUMBERS
                and len(cells) < IMAGES_PER_NUMBER * len(values)
            )
        if measured:
            raise DataError(
                f"{self._columns.name(column)} of {self._path} holds {len(values)} different "
                f"numbers, from {min(values):g} to {max(values):g}: a measurement, and no class",
                remedy="name another column with --label-column, or write the name of a range of "
                "values, such as low and high, as the label",
            )


def _label(cell: str) -> str:
    text = as_text(cell)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _is_utf8(cell: str) -> bool:
    return as_text(cell) is cell


def is_missing(cell: str) -> bool:
    return not cell or cell.lower() in ("nan", "[]")


def _split(cell: str, mark: str) -> list[str]:
    """The tags of a cell, each once; a list as Python or JSON writes it is read as one."""
    if mark == "," and cell.startswith("[") and cell.endswith("]"):
        try:
            values = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values = cell[1:-1].split(",")
        return [*dict.fromkeys(str(value).strip() for value in values)]
    return [tag for tag in dict.fromkeys(part.strip() for part in cell.split(mark)) if tag]


def _whole(cells: list[str]) -> tuple[list[str], list[str]]:
    """Class numbers that were written with a point, as pandas does beside missing cells."""
    if all(len(ends := cell.partition(".")) and ends[0].isdecimal() and ends[1]
           and not ends[2].strip("0") for cell in cells):  # fmt: skip
        return [cell.partition(".")[0] for cell in cells], [
            f"labels such as {cells[0]} are read as {cells[0].partition('.')[0]}"
        ]
    return cells, []


def _alike(classes: Sequence[str]) -> list[str]:
    """Says so where classes differ in nothing but capitals."""
    times = Counter(name.casefold() for name in classes)
    same = [name for name in classes if times[name.casefold()] > 1]
    return [f"classes that differ in capitals only: {quoted([*map(printable, same)], 8)}"] * bool(
        same
    )
