"""Which column of a label file names the images, which holds the labels, which the split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from beit.config.label_file import NO_COLUMN, LabelFileConfig
from beit.data.file_types import IMAGE_EXTENSIONS
from beit.data.image_names import ImageNames
from beit.data.listing import quoted
from beit.data.tables import PROBED, NamesImage, Row, Table, as_text, cell_lines
from beit.errors import ConfigError, DataError, nearest
from beit.terminal import printable

IMAGE = (
    "image", "images", "imagename", "imagefile", "imagefilename", "imagepath", "imagefilepath",
    "imageindex", "img", "imgs", "imgname", "imgfile", "imgfilename", "imgpath", "file", "files",
    "filename", "filenames", "filepath", "filepaths", "path", "paths", "relativepath",
    "filelocation", "picture", "pictures", "picturename", "picturefile", "picturepath", "photo",
    "photoname",
)  # fmt: skip
IDENTITY = (
    "id", "imageid", "imgid", "idcode", "imageidentifier", "photoid", "pictureid", "uid", "uuid",
    "name", "key",
)  # fmt: skip
"""Headings of names that may be those of images, where no column is called as one."""
LABEL = (
    "label", "labels", "labelname", "classlabel", "class", "classes", "classname", "target",
    "targets", "category", "categories", "categoryname", "species", "speciesname", "diagnosis",
    "diagnoses", "dx", "disease", "breed", "groundtruth", "gt", "tags", "tag", "findinglabels",
    "labelid", "classid", "categoryid", "targetid",
)  # fmt: skip
PERHAPS_LABEL = ("y", "keywords", "attributes", "findings", "type", "kind")
"""Headings of labels, where no column is called as one: `y` may also be a coordinate."""
SEVERAL = (
    "tags", "tag", "labels", "classes", "categories", "keywords", "attributes", "findinglabels",
    "findings", "targets",
)  # fmt: skip
"""Headings of columns whose cells may hold several labels."""
SPLIT = (
    "split", "splits", "set", "subset", "fold", "folds", "partition", "phase", "datasplit",
    "traintest", "usage", "istrain", "istraining", "istrainingimage", "isval", "isvalid",
    "isvalidation", "istest",
)  # fmt: skip

_SIGNS = re.compile(r"[\s_\-./#:]+")
_INDEX = re.compile(r"(unnamed: ?\d+|index|level_\d+)?", re.IGNORECASE)


class Columns(NamedTuple):
    """Headings, empty where the file has none, the rows below, and the places of the columns."""

    headings: list[str]
    rows: list[Row]
    image: int
    split: int | None

    def name(self, column: int) -> str:
        """What a column is called in messages."""
        heading = self.headings[column]
        return f"column '{printable(heading)}'" if heading else f"column {column + 1}"

    def cells(self, column: int) -> list[str]:
        """All cells of a column, from top to bottom."""
        return [row.cells[column] for row in self.rows]


def is_heading(cells: Sequence[str]) -> bool:
    """Whether one of the cells is a heading that images are known by."""
    return any(plain(cell) in (*IMAGE, *IDENTITY) for cell in cells)


def plain(heading: str) -> str:
    """A heading without what is written in many ways: "File Name", "file_name", "FILENAME"."""
    return _SIGNS.sub("", heading).lower()


def find_columns(path: str, table: Table, names: ImageNames, config: LabelFileConfig) -> Columns:
    """Divide headings from rows, and find the columns of the images and of the split.

    Raises:
        DataError: If rows have more cells than there are columns, or the column of the images
            cannot be told.
        ConfigError: If a named column does not exist.
    """
    first, *others = table.rows
    headed = table.keyed or _has_headings(table.rows, names, config)
    rows = others if headed else table.rows
    if not rows:
        raise DataError(
            f"the list {path} names no images: its only line is the headings "
            + quoted([printable(cell) for cell in first.cells]),
            remedy="write one image per line below them",
        )
    headings = _headings(first.cells, rows) if headed else [""] * _width(rows)
    rows = [_fitted(row, len(headings)) for row in rows]
    long = [(row.line, row.cells[-1]) for row in rows if len(row.cells) > len(headings)]
    if long:
        raise DataError(
            f"lines of {path} have more than {len(headings)} cells: {cell_lines(long)}",
            remedy="put cells that contain the separator between quotes, or complete the headings",
        )
    columns = Columns([as_text(heading) for heading in headings], rows, 0, None)
    image = _image_column(path, columns, names, config.image_column)
    columns = columns._replace(image=image)
    return columns._replace(split=_split_column(path, columns, config.split_column))


def column_called(path: str, columns: Columns, option: str, name: str) -> int:
    """The column of this heading or, without headings, of this number counted from 1.

    Raises ConfigError if there is none, or more than one.
    """
    headings = columns.headings
    if not any(headings):
        if name.isdecimal() and 1 <= int(name) <= len(headings):
            return int(name) - 1
        raise ConfigError(
            f"{option} is {printable(name)}, and {path} has {len(headings)} columns without "
            "headings",
            remedy=f"name a column by its number, from 1 to {len(headings)}",
        )
    found = [at for at, heading in enumerate(headings) if heading == name]
    found = found or [at for at, heading in enumerate(headings) if plain(heading) == plain(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"{len(found)} columns of {path} are called {printable(name)}",
            remedy="give each column a heading of its own",
        )
    raise ConfigError(
        f"{option} is {printable(name)}, and {path} has {listed(columns)}",
        remedy=nearest(name, [heading for heading in headings if heading]),
    )


def listed(columns: Columns) -> str:
    """The columns of a file, for a message."""
    if not any(columns.headings):
        return f"{len(columns.headings)} columns without headings"
    return "the columns " + quoted([printable(heading) for heading in columns.headings], 20)


def is_index(columns: Columns, column: int) -> bool:
    """Whether a column numbers the rows, as pandas writes it, or is empty."""
    cells = columns.cells(column)
    heading = columns.headings[column]
    if not any(cells):
        return True
    numbered = all(cell.isdecimal() for cell in cells) and len(set(cells)) == len(cells)
    return any(columns.headings) and bool(_INDEX.fullmatch(heading)) and numbered


def recognised(columns: Columns, known: Sequence[str]) -> list[int]:
    """Columns with one of the known headings, in the order of these."""
    order = {name: rank for rank, name in enumerate(known)}
    found = [at for at, heading in enumerate(columns.headings) if plain(heading) in order]
    return sorted(found, key=lambda at: order[plain(columns.headings[at])])


def _has_headings(rows: list[Row], names: ImageNames, config: LabelFileConfig) -> bool:
    """Whether the first row is headings: it names no image, and is called as one, or others do."""
    first = rows[0].cells
    if any(map(names.as_written, first)):
        return False
    options = (config.image_column, config.label_column, config.split_column)
    if is_heading(first) or any(option in first for option in options if not option.isdecimal()):
        return True
    if any(PurePath(cell).suffix.lower() in IMAGE_EXTENSIONS for cell in first):
        return False
    if any(cell.isdecimal() for cell in first) or any(map(names.names_image, first)):
        return False
    if any(plain(cell) in (*LABEL, *SPLIT) for cell in first):
        return True
    return any(any(map(names.names_image, row.cells)) for row in rows[1 : PROBED + 1])


def _headings(first: list[str], rows: list[Row]) -> list[str]:
    """Without columns at the end that have neither heading nor cells, as spreadsheets write."""
    width = len(first)
    while width > 1 and not first[width - 1] and not any(
        cell for row in rows for cell in row.cells[width - 1 : width]
    ):  # fmt: skip
        width -= 1
    return first[:width]


def _width(rows: list[Row]) -> int:
    """Of a file without headings: the first row's, without empty cells at its end."""
    cells = rows[0].cells
    return max((at + 1 for at, cell in enumerate(cells) if cell), default=1)


def _fitted(row: Row, width: int) -> Row:
    """With as many cells as there are columns: empty ones at the end are added or dropped."""
    cells = row.cells
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    return row._replace(cells=cells + [""] * (width - len(cells)))


def _image_column(path: str, columns: Columns, names: ImageNames, option: str) -> int:
    if option:
        return column_called(path, columns, "image_column", option)
    if len(columns.headings) == 1:
        return 0
    for known in (IMAGE, IDENTITY):
        found = [at for at in recognised(columns, known) if _share(columns, at, names.names_image)]
        if found:
            return _the_one(path, columns, found, names)
    for test in (names.as_written, names.names_image):  # the second may search, if it must
        fitting = [at for at in range(len(columns.headings)) if _share(columns, at, test) > 0.5]
        if fitting:
            return _the_one(path, columns, fitting, names)
    called = recognised(columns, (*IMAGE, *IDENTITY))
    if called:
        return called[0]  # none of its images is there, as will be said
    if not any(columns.headings) and len(columns.headings) == 2:
        return 0
    raise DataError(
        f"it cannot be told which column of {path} names the images: it has {listed(columns)}",
        remedy="name it with --image-column"
        + ("" if any(columns.headings) else ", by its number, counted from 1")
        + "; if none of the images was found, --image-folder says where they lie",
    )


def _share(columns: Columns, column: int, names_image: NamesImage) -> float:
    """How much of the first cells name images."""
    cells = [row.cells[column] for row in columns.rows[:PROBED]]
    return sum(bool(names_image(cell)) for cell in cells) / len(cells)


def _the_one(path: str, columns: Columns, found: Sequence[int], names: ImageNames) -> int:
    """The first of several columns that name the same images. Errors: DataError if others."""
    for row in columns.rows[:PROBED]:
        if len({tuple(names.find(row.cells[at])) for at in found}) > 1:
            raise DataError(
                f"more than one column of {path} names images: "
                + ", ".join(columns.name(at) for at in found),
                remedy="say with --image-column which of them is meant",
            )
    return found[0]


def _split_column(path: str, columns: Columns, option: str) -> int | None:
    if option == NO_COLUMN and NO_COLUMN not in columns.headings:
        return None
    if option:
        return column_called(path, columns, "split_column", option)
    found = [at for at in recognised(columns, SPLIT) if at != columns.image]
    if len(found) > 1:
        raise DataError(
            f"more than one column of {path} may be the split: "
            + ", ".join(columns.name(at) for at in found),
            remedy="say with --split-column which of them is meant, or `none`",
        )
    return found[0] if found else None
