"""Which images of a label file are for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from beit.config.label_file import NO_COLUMN, LabelFileConfig
from beit.data.label_columns import Columns
from beit.data.layout import WHOLE, split_called
from beit.data.listing import quoted
from beit.errors import ConfigError, DataError
from beit.terminal import printable


class Divided(NamedTuple):
    """The split of every row: train, val or test, or WHOLE everywhere."""

    splits: list[str]
    layout: str
    """Where they were found, as the end of a sentence; empty without splits."""


def find_splits(
    path: str, columns: Columns, images: Sequence[str], config: LabelFileConfig
) -> Divided:
    """The split of every row: what its cell says or, without a column for it, the folder of the
    image, where all images lie in folders of splits.

    Args:
        path: The label file, for messages.
        columns: Its rows and headings.
        images: The path of every row's image.
        config: Says which folds are for validation and test, or that nothing is a split.

    Returns:
        The splits.

    Raises:
        DataError: If a cell is empty, a number that may be a fold, or another word.
        ConfigError: If folds are named that there are not.
    """
    if columns.split is None:
        if config.validation_fold or config.test_fold:
            raise ConfigError(
                f"a fold was named, and no column of {path} is recognised as the split",
                remedy="name the column with --split-column",
            )
        splits = [_of_folder(image) for image in images]
        if config.split_column == NO_COLUMN or not all(splits) or len(set(splits)) < 2:
            return Divided([WHOLE] * len(images), "")
        return Divided(splits, ", splits by the folders of the images")
    cells = columns.cells(columns.split)
    for option in ("validation_fold", "test_fold"):
        fold = getattr(config, option)
        if fold and fold not in cells:
            raise ConfigError(
                f"{option} is {printable(fold)}, and {columns.name(columns.split)} of {path} "
                f"holds {quoted([*map(printable, sorted(set(cells)))], 8)}",
                remedy="name one of these values",
            )
    splits = [_of_cell(path, columns, row, config) for row in range(len(cells))]
    return Divided(splits, f", splits in {columns.name(columns.split)}")


def _of_folder(image: str) -> str:
    """The split of the first folder that is called as one."""
    return next(filter(None, map(split_called, image.split("/")[:-1])), "")


def _of_cell(path: str, columns: Columns, row: int, config: LabelFileConfig) -> str:
    assert columns.split is not None
    line, cell = columns.rows[row].line, columns.rows[row].cells[columns.split]
    for fold, split in ((config.validation_fold, "val"), (config.test_fold, "test")):
        if fold and cell == fold:
            return split
    if called := split_called(cell):
        return called
    if cell and (config.validation_fold or config.test_fold):
        return "train"
    where = f"line {line} of {path} has {f'{printable(cell)!r}' if cell else 'nothing'} in " + (
        columns.name(columns.split)
    )
    options = (
        "say with --validation-fold and --test-fold which values these are (all others are for "
        "training), or with --split-column none that the column is not read"
    )
    if cell.replace(".", "", 1).isdecimal():
        raise DataError(
            f"{where}: a number may be a fold, or stand for train, val or test", remedy=options
        )
    raise DataError(f"{where}, which is no split", remedy=f"write train, val or test; or {options}")
