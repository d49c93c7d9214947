"""Which columns of a label file hold labels, and what they say of every row."""

from __future__ import annotations

from collections.abc import Set

from beit.config.label_file import LabelFileConfig
from beit.data.label_cells import LabelReader, Labels, is_missing, is_switch, number_of
from beit.data.label_columns import (
    LABEL,
    PERHAPS_LABEL,
    Columns,
    column_called,
    is_index,
    listed,
    recognised,
)
from beit.data.listing import quoted
from beit.errors import ConfigError, DataError
from beit.terminal import printable


def read_labels(path: str, columns: Columns, testing: Set[int], config: LabelFileConfig) -> Labels:
    """The labels of the rows.

    Args:
        path: The file, for messages.
        columns: Its rows and headings.
        testing: Rows for test, which may be without labels if all of them are.
        config: Options that settle what the headings leave open.

    Returns:
        Classes in natural order, and the targets of all rows.

    Raises:
        DataError: If it cannot be told which column holds labels, cells are empty, numbers are
            measurements, or a cell may be one label or several.
        ConfigError: If a named column does not exist.
    """
    places, notes = _label_columns(path, columns, config)
    empty = all(is_missing(columns.rows[row].cells[at]) for row in testing for at in places)
    rows = [row for row in range(len(columns.rows)) if not (empty and row in testing)]
    if not rows:
        raise DataError(f"the list {path} has no labels", remedy="label the images")
    reader = LabelReader(path, columns, rows, config)
    found = reader.zeros_and_ones(places) if len(places) > 1 else reader.one_column(places[0])
    used = {columns.image, columns.split, *places}
    unused = [
        columns.headings[at] or str(at + 1)
        for at in range(len(columns.headings))
        if at not in used and not is_index(columns, at)
    ]
    if unused:
        notes = [*notes, f"columns that are not read: {quoted([*map(printable, unused)], 8)}"]
    return found._replace(notes=(*found.notes, *notes))


def _label_columns(
    path: str, columns: Columns, config: LabelFileConfig
) -> tuple[list[int], list[str]]:
    """The column of the labels, or those of zeros and ones; and what was decided."""
    option = config.label_column
    if option:
        several = option.split(",") if option not in columns.headings else [option]
        found = [column_called(path, columns, "label_column", name.strip()) for name in several]
        if columns.image in found:
            raise ConfigError(
                f"label_column is {printable(option)}, which names the images of {path}",
                remedy="name the column of the labels",
            )
        return found, []
    rest = [
        at
        for at in range(len(columns.headings))
        if at not in (columns.image, columns.split) and not is_index(columns, at)
    ]
    if not rest:
        raise DataError(
            f"the list {path} has no labels",
            remedy="write a label behind each path, as a second column",
        )
    called = [at for at in recognised(columns, LABEL) if at in rest]
    called = called or [at for at in recognised(columns, PERHAPS_LABEL) if at in rest]
    if len(called) > 1:
        return _the_same_classes(path, columns, called)
    if called or len(rest) == 1:
        return called or rest, []
    if all(map(is_switch, (columns.cells(at) for at in rest))) and all(
        columns.headings[at] for at in rest
    ):
        return rest, []
    raise DataError(
        f"it cannot be told which column of {path} holds the labels: it has {listed(columns)}",
        remedy="name it with --label-column"
        + ("" if any(columns.headings) else ", by its number, counted from 1")
        + "; several, separated by commas, where each holds 0 or 1 for one class",
    )


def _the_same_classes(
    path: str, columns: Columns, called: list[int]
) -> tuple[list[int], list[str]]:
    """Of columns that divide the images alike, such as numbers beside names, the one of names."""
    cells = [columns.cells(at) for at in called]
    pairs = len(set(zip(*cells, strict=True)))
    if any(len(set(column)) != pairs for column in cells):
        raise DataError(
            f"more than one column of {path} may hold the labels: "
            + ", ".join(columns.name(at) for at in called),
            remedy="say with --label-column which of them is meant",
        )
    words = [at for at, column in zip(called, cells, strict=True) if None in map(number_of, column)]
    chosen = (words or called)[0]
    others = ", ".join(columns.name(at) for at in called if at != chosen)
    return [chosen], [f"{others} divides the images as {columns.name(chosen)} does"]
