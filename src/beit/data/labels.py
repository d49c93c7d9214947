"""The labels in the columns of a label file: one class, several tags, or zeros and ones."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Sequence, Set
from itertools import chain
from typing import NamedTuple

import numpy as np

from beit.data.class_names import spelled_alike
from beit.data.image_names import as_text, cell_lines, composed
from beit.data.label_columns import LABEL, NO, PERHAPS_LABEL, YES, Column, LabelTable
from beit.data.label_studio import choices_in
from beit.data.listing import natural_key
from beit.data.sources import number_labels
from beit.data.tables import plain
from beit.errors import ConfigError, DataError
from beit.terminal import quoted

SEVERAL = (
    "tags", "tag", "labels", "classes", "categories", "keywords", "attributes", "findinglabels",
    "findings", "targets",
)  # fmt: skip
"""Headings of columns whose cells may hold several labels."""
TAGS = ("tag", "tags", "keywords")
"""Headings of columns whose cells certainly do."""
MARKS = {"pipe": "|", "semicolon": ";", "comma": ",", "space": " "}
"""Separators between several labels, in the order in which they are tried."""
_MISSING = ("nan", "n/a", "#n/a", "<na>", "null", "?")
"""Cells without a label; `none`, `NA` and `-` may be the names of classes."""
_DENIED = {"confidence": ("0", "0.0"), "answer": ("reject", "ignore")}
"""By heading, the cells that mean that the label of a row is wrong."""
_NUMBERS = re.compile(r"\[[\s\d.+-]*\]")
_BETWEEN = re.compile(r"(?<=['\"])\s+(?=['\"])")
"""Between the words of a list as NumPy writes it: ['cat' 'dog']."""
MOST_FRACTIONS = 10
MOST_NUMBERS = 20
IMAGES_PER_NUMBER = 5


class Labels(NamedTuple):
    """The labels of the rows of a label file."""

    classes: tuple[str, ...]
    """In natural order."""
    targets: np.ndarray
    """As `ImageSource.targets`; -1, or no label at all, in a row that was not read."""
    layout: str
    """Where the labels were found."""
    notes: tuple[str, ...]
    unread: frozenset[int] = frozenset()
    """Rows for testing that come without labels, and tasks that no annotator answered."""


def read_labels(table: LabelTable, testing: Set[int]) -> Labels:
    """The labels of the rows. Rows for testing may lack labels if all of them do; if annotators
    gave the labels, any row may.

    Raises:
        DataError: If the column of the labels is ambiguous, cells are empty, numbers are
            measurements, or a cell may be one label or several.
        ConfigError: If a named column does not exist.
    """
    columns, notes = _label_columns(table)
    every = range(len(table.lines))
    missing = {row for row in every if all(_is_missing(column.cells[row]) for column in columns)}
    if table.answers is None:
        missing = {*testing} if testing <= missing else set()
    rows = [row for row in every if row not in missing]
    if not rows:
        raise _no_labels(table, "label the images")
    found = (_zeros_and_ones if len(columns) > 1 else _one_column)(table, columns, rows)
    several = found.targets.ndim > 1
    shape = (len(table.lines), *found.targets.shape[1:])
    targets = np.full(shape, False if several else -1, found.targets.dtype)
    targets[rows] = found.targets
    unused = [column for column in table.others() if column not in columns]
    if not table.config.label_column:
        _refuse_denied(table, unused)
    if unused:
        names = [column.heading or str(column.number) for column in unused]
        notes = (*notes, f"columns that are not read: {quoted(names, 8)}")
    notes = (*found.notes, *notes)
    return found._replace(targets=targets, notes=notes, unread=frozenset(missing))


def _refuse_denied(table: LabelTable, unused: Sequence[Column]) -> None:
    """Raise DataError for rows whose label people rejected, as in Open Images and Prodigy."""
    for column in unused:
        heading = plain(column.heading)
        denied = [cell for cell in column.cells if cell.lower() in _DENIED.get(heading, ())]
        if denied and (heading != "confidence" or _is_switch(column.cells)):
            raise DataError(
                f"{column.title} of {table.path} holds {quoted([*dict.fromkeys(denied)])} in "
                f"{len(denied)} of {len(column.cells)} rows: their images may lack the label",
                remedy="remove these rows; or name the column of the labels with --label-column, "
                "if all rows count",
            )


def _no_labels(table: LabelTable, remedy: str) -> DataError:
    return DataError(f"the list {table.path} has no labels", remedy=remedy)


def _label_columns(table: LabelTable) -> tuple[list[Column], tuple[str, ...]]:
    """The column of the labels, or those of zeros and ones, and notes on the choice."""
    option = table.config.label_column
    if option:
        whole = option in [column.heading for column in table.columns]
        names = [option] if whole else option.split(",")
        found = [table.called("label_column", name.strip()) for name in names]
        if table.image in found:
            raise ConfigError(
                f"label_column is {option}, which names the images of {table.path}",
                remedy="name the column of the labels",
            )
        return found, ()
    rest = table.others()
    if table.answers is not None:
        rest = [column for column in rest if column.heading in table.answers]
    if not rest:
        raise _no_labels(
            table,
            "write a label behind each path, as a second column"
            if table.answers is None
            else "annotate the tasks: choices and taxonomies for whole images are read",
        )
    for known in (LABEL, PERHAPS_LABEL):
        called = [column for column in table.known(known) if column in rest]
        if len(called) > 1:
            return _the_same_classes(table, called)
        if called:
            return called, ()
    if len(rest) == 1 or all(column.heading and _is_switch(column.cells) for column in rest):
        return rest, ()
    raise DataError(
        f"no column of {table.path} clearly holds the labels: it has {table.listed}",
        remedy=f"name it with --label-column{table.by_number}; several, separated by commas, where "
        "each holds 0 or 1 for one class",
    )


def _the_same_classes(
    table: LabelTable, called: list[Column]
) -> tuple[list[Column], tuple[str, ...]]:
    """The column of names among several that divide the images alike, such as names and numbers."""
    groups = len(set(zip(*(column.cells for column in called), strict=True)))
    if any(len(set(column.cells)) != groups for column in called):
        remedy = "say with --label-column which of them is meant"
        raise table.ambiguous("may hold the labels", called, remedy)
    words = [column for column in called if None in map(_number, column.cells)]
    chosen = (words or called)[0]
    others = ", ".join(column.title for column in called if column is not chosen)
    return [chosen], (f"{others} divides the images as {chosen.title} does",)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _switch(cell: str) -> float | None:
    return 1.0 if cell.lower() in YES else 0.0 if cell.lower() in NO else _number(cell)


def _is_switch(cells: Sequence[str]) -> bool:
    """Whether cells hold only zeros and ones, or only -1 and 1."""
    values = set(map(_switch, set(cells)))
    return values <= {0, 1} or values <= {-1, 1}


def _zeros_and_ones(table: LabelTable, columns: Sequence[Column], rows: Sequence[int]) -> Labels:
    """Labels from a column for each class; if every image has exactly one, single classes."""
    names = {column: _label(column.heading) or str(column.number) for column in columns}
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    if twice:
        raise DataError(
            f"more than one column of {table.path} is called {quoted(twice)}",
            remedy="give each class a heading of its own",
        )
    order = sorted(columns, key=lambda column: natural_key(names[column]))
    values = np.array([_switches(table, column, rows) for column in order]).T
    if values.min(initial=0) < 0 and (values == 0).any():
        raise DataError(
            f"the columns of the classes in {table.path} hold -1, 0 and 1",
            remedy="write 0 and 1 only: decide what -1 stands for",
        )
    flags = values > 0
    classes = [names[column] for column in order]
    never = [classes[at] for at in np.flatnonzero(~flags.any(axis=0))]
    notes = (f"no image is of {quoted(never, 8)}",) if never else ()
    layout = f"a column of zeros and ones for each of {len(classes)} classes"
    if (flags.sum(axis=1) == 1).all():
        layout += ", one of them for every image"
        kept = np.flatnonzero(flags.any(axis=0))
        classes = [classes[at] for at in kept]
        return Labels(tuple(classes), flags[:, kept].argmax(axis=1), layout, notes)
    return Labels(tuple(classes), flags, f"{layout}, any number per image", notes)


def _switches(table: LabelTable, column: Column, rows: Sequence[int]) -> list[float]:
    values = [_switch(column.cells[row]) for row in rows]
    wrong = [
        (table.lines[row], column.cells[row] or "empty")
        for row, value in zip(rows, values, strict=True)
        if value not in (-1, 0, 1)
    ]
    if wrong:
        raise DataError(
            f"{column.title} of {table.path} holds other cells than 0 and 1: {cell_lines(wrong)}",
            remedy="write 1 where the class is right for the image, and 0 elsewhere",
        )
    return [value for value in values if value is not None]


def _one_column(table: LabelTable, columns: Sequence[Column], rows: Sequence[int]) -> Labels:
    """Labels from one column: classes, or tags if a cell holds several."""
    (column,) = columns
    cells = [_label(column.cells[row]) for row in rows]
    unlabelled = [
        (table.lines[row], table.image.cells[row])
        for row, cell in zip(rows, cells, strict=True)
        if _is_missing(cell)
    ]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled)} of the {len(cells)} images in {table.path} have no label: "
            + cell_lines(unlabelled),
            remedy="label every line, or remove those without a label; images with none of several "
            "labels need a column of 0 and 1 for each label",
        )
    chosen = [[*map(composed, choices_in(cell))] for cell in cells]
    objects = [cell for cell, found in zip(cells, chosen, strict=True)
               if cell[:1] == "{" and not (found or table.config.label_column)]  # fmt: skip
    if objects:
        raise DataError(
            f"{column.title} of {table.path} holds JSON objects, such as {quoted(objects, 1)}",
            remedy="write the label itself into each cell, several as cat|dog under the heading "
            "tags; or name the column with --label-column, if each different cell is a class",
        )
    layout = f"labels in {column.title}"
    notes: tuple[str, ...] = ()
    if any(as_text(column.cells[row]) is not column.cells[row] for row in rows):
        notes = ("labels that are not UTF-8 are read as Windows-1252",)
    mark = None if any(chosen) else _mark(table, column, cells)
    if any(chosen):
        chosen = [found or [cell] for cell, found in zip(cells, chosen, strict=True)]
        several = any(len(found) > 1 for found in chosen)
        classes, targets = number_labels(chosen if several else [found[0] for found in chosen])
        layout = f"several {layout}" if several else layout
    elif mark is None:
        cells, whole = _without_points(cells)
        notes += whole
        _check_classes(table, column, cells)
        classes, targets = number_labels(cells)
    else:
        layout = f"several {layout}, separated by {mark}"
        if table.config.label_separator == "auto":
            _refuse_flags(table, column, cells, mark)
        classes, targets = number_labels([_tags(cell, mark) for cell in cells])
    return Labels(classes, targets, layout, (*notes, *spelled_alike(classes)))


def _mark(table: LabelTable, column: Column, cells: list[str]) -> str | None:
    """The separator between the labels of a cell; None if every cell is one label."""
    option = table.config.label_separator
    if option != "auto":
        return None if option == "none" else option
    heading = plain(column.heading)
    different = dict.fromkeys(cells)
    lists = [cell for cell in different if _is_list(cell)]
    called = heading in (*LABEL, *PERHAPS_LABEL) or bool(table.config.label_column)
    called = called and len(lists) == len(different)
    if lists and (
        heading in SEVERAL or (called and any(len(_tags(one, "comma")) > 1 for one in lists))
    ):
        return "comma"
    for mark in MARKS:
        broken = [cell for cell in different if len(_tags(cell, mark)) > 1]
        if not broken or (mark == "space" and heading not in SEVERAL):
            continue
        alone = any(tag in different for cell in broken for tag in _tags(cell, mark))
        if heading in SEVERAL and (heading in TAGS or mark != "space" or alone):
            return mark
        if heading in SEVERAL or alone:
            parts = quoted(_tags(broken[0], mark))
            raise DataError(
                f"'{broken[0]}' in {column.title} of {table.path} may be one label or "
                f"several, {parts}",
                remedy=f"say with --label-separator {mark} that these are several labels, or with "
                "--label-separator none that a cell is one",
            )
    return None


def _refuse_flags(table: LabelTable, column: Column, cells: list[str], mark: str) -> None:
    """Raise DataError if all cells are equally long lists of 0 and 1: [0, 1, 0]."""
    parts = [_parts(cell, mark) for cell in dict.fromkeys(cells)]
    flags = all(_switch(each) in (0, 1) for each in {*chain(*parts)})
    if flags and len(parts[0]) > 1 and len({*map(len, parts)}) == 1:
        raise DataError(
            f"the cells of {column.title} of {table.path} are lists of 0 and 1, such as "
            f"{quoted(cells[:1])}: they may say of each class whether the image has it",
            remedy="write a column of 0 and 1 for each class, or their names; or say with "
            f"--label-separator {mark} that these are the numbers of two classes, or with "
            "--label-separator none that each different cell is a class",
        )


def _check_classes(table: LabelTable, column: Column, cells: list[str]) -> None:
    """Raise DataError for measurements, and for descriptions: cells below an unknown heading of
    which most occur only once."""
    different = set(cells)
    named = bool(table.config.label_column)
    values = {value for value in map(_number, different) if value is not None}
    if values and len(values) == len(different):
        low, high, every = min(values), max(values), len(values) == len(cells)
        counted = high - low == len(values) - 1 and low in (0, 1)
        if any(value != int(value) for value in values):
            measured = len(values) > MOST_FRACTIONS or (every and len(values) > 2)
        else:
            many = len(values) > MOST_NUMBERS and len(cells) < IMAGES_PER_NUMBER * len(values)
            measured = many and not (counted or named)
        if measured:
            raise DataError(
                f"{column.title} of {table.path} holds {len(values)} different numbers, from "
                f"{low:g} to {high:g}: a measurement, and no class",
                remedy="name another column with --label-column, or write the name of a range of "
                "values, such as low and high, as the label",
            )
    if -1.0 in values and len(values) == len(different) > 2:
        raise DataError(
            f"{column.title} of {table.path} holds -1 beside the numbers of {len(values) - 1} "
            "classes: it may stand for images without a label",
            remedy="remove these lines, or write a name for what -1 stands for",
        )
    known = plain(column.heading) in (*LABEL, *PERHAPS_LABEL)
    alone = sum(times == 1 for times in Counter(cells).values())
    if table.headed and not (known or named) and alone > max(2, len(cells) / 2):
        raise DataError(
            f"{alone} of the {len(cells)} cells of {column.title} of {table.path} are different "
            f"from all others, and a class has several images: {quoted(cells)}",
            remedy="name the column of the classes with --label-column",
        )


def _label(cell: str) -> str:
    return composed(as_text(cell))


def _is_missing(cell: str) -> bool:
    empty = not (cell[1:-1].strip("'\", ") if _is_list(cell) else cell)
    return empty or cell.lower() in _MISSING


def _is_list(cell: str) -> bool:
    return cell.startswith("[") and cell.endswith("]")


def _tags(cell: str, mark: str) -> list[str]:
    """The tags of a cell, each once."""
    return [tag for tag in dict.fromkeys(_parts(cell, mark)) if tag]


def _parts(cell: str, mark: str) -> list[str]:
    """A cell, split at the separator, or the list that it is as Python, JSON or NumPy writes it."""
    if mark != "comma" or not _is_list(cell):
        return [*map(str.strip, cell.split(MARKS[mark]))]
    if _NUMBERS.fullmatch(cell):  # [0. 1.]
        return cell[1:-1].split()
    try:
        values = ast.literal_eval(_BETWEEN.sub(",", cell))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        values = cell[1:-1].split(",")
    return [str(value).strip() for value in values]


def _without_points(cells: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Class numbers without the decimal point that pandas writes if cells are missing, and a note
    on that."""
    parts = [cell.partition(".") for cell in cells]
    pointed = next((at for at, (_, point, _) in enumerate(parts) if point), None)
    if pointed is None or any(rest.strip("0") or not whole.isdecimal() for whole, _, rest in parts):
        return cells, ()
    return [whole for whole, _, _ in parts], (
        f"labels such as {cells[pointed]} are read as {parts[pointed][0]}",
    )
