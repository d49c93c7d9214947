"""Which column of a label file names the images, which holds the labels, and which the split.

Columns of other lists of the same images can be joined by a column that they share. CUB-200 and
NABirds are published in this way: `images.txt` has a number for each image, and
`image_class_labels.txt` and `train_test_split.txt` refer to these numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from beit.config.data import NO_COLUMN, LabelFileConfig
from beit.data.file_types import IMAGE_EXTENSIONS
from beit.data.folder_names import split_called
from beit.data.image_names import ImageNames, as_text, cell_lines
from beit.data.label_studio import ANNOTATION, RECORDED
from beit.data.tables import (
    IDENTITY,
    IMAGE,
    PROBED,
    NamesImage,
    Row,
    is_heading,
    plain,
    read_table,
)
from beit.errors import ConfigError, DataError, nearest
from beit.terminal import quoted

LABEL = (
    "label", "labels", "labelname", "classlabel", "class", "classes", "classname", "target",
    "targets", "category", "categories", "categoryname", "species", "speciesname", "diagnosis",
    "diagnoses", "dx", "disease", "breed", "groundtruth", "gt", "tags", "tag", "findinglabels",
    "findinglabel",
    "labelid", "classid", "categoryid", "targetid",
)  # fmt: skip
PERHAPS_LABEL = ("y", "keywords", "attributes", "findings", "type", "kind", "choice", "choices")
"""Headings of labels if no heading is one of `LABEL`: `y` may also be a coordinate."""
SPLIT = (
    "split", "splits", "set", "subset", "fold", "folds", "partition", "phase", "datasplit",
    "traintest", "usage", "istrain", "istraining", "istrainingimage", "isval", "isvalid",
    "isvalidation", "istest",
)  # fmt: skip

YES, NO = ("true", "yes", "1", "1.0"), ("false", "no", "0", "0.0")
_ACROSS = re.compile(r"(.*[^a-z])?x(\d|min)?")
"""Headings of an x coordinate, beside which `y` is a coordinate, too."""
_SPLIT_LIST = re.compile(r"(partition|train_test|train_val_test)[^/\\]*$")
"""The end of the name of a list that says which split each image is in: list_eval_partition.txt."""
_INDEX = re.compile(r"(unnamed: ?\d+|index|level_\d+)?", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a label file, without its heading, from top to bottom."""

    number: int
    """Counted from 1."""
    heading: str
    """Empty where the file has none."""
    cells: list[str]

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"column '{self.heading}'" if self.heading else f"column {self.number}"


class LabelTable:
    """The columns of a label file and of the lists that its config joins to it, and which of them
    holds the names of the images and which the split.

    Raises:
        DataError: As `read_table`, or if rows have more cells than there are columns, a column is
            ambiguous, or a joined list shares no column with the file, or not for all of its rows.
        ConfigError: If a list to join or a named column does not exist.
    """

    def __init__(self, path: str, names: ImageNames, config: LabelFileConfig) -> None:
        table = read_table(path, names.find, names.as_written)
        self.path, self.config, self.answers = path, config, table.answers
        first, *rows = table.rows
        headed = table.keyed or _has_headings(table.rows, names.find, names.as_written, config)
        if not headed:
            rows = table.rows
        if not rows:
            raise DataError(
                f"the list {path} names no images: its only line is the headings "
                + quoted(first.cells),
                remedy="write one image per line below them",
            )
        width = _width(first.cells, rows if headed else [])
        rows = [_fitted(row, width) for row in rows]
        long = [(row.line, row.cells[-1]) for row in rows if len(row.cells) > width]
        if long:
            raise DataError(
                f"lines of {path} have more than {width} cells: {cell_lines(long)}",
                remedy="put cells that contain the separator between quotes, or complete the "
                "headings",
            )
        headings = [as_text(cell) for cell in first.cells[:width]] if headed else [""] * width
        notes = list[str]()
        for name in config.join:
            added, more, key = _columns(path, rows, name)
            headings += map(as_text, added)
            rows = [row._replace(cells=row.cells + more[row.cells[key]]) for row in rows]
            notes.append(f"joined from {name}: {quoted(added, 8)}")
        self.notes = (*notes, *table.notes)
        """What was joined, and what of the file was skipped."""
        self.headed = any(headings)
        self.lines = [row.line for row in rows]
        self.columns = [
            Column(at + 1, heading, [row.cells[at] for row in rows])
            for at, heading in enumerate(headings)
        ]
        self.image = self._image_column(names)
        self.split = self._split_column()

    @property
    def listed(self) -> str:
        """The columns, for a message."""
        if not self.headed:
            return f"{len(self.columns)} columns without headings"
        headings = [column.heading for column in self.columns if column.heading]
        return f"the columns {quoted(headings, 20)}"

    @property
    def by_number(self) -> str:
        """How to name a column, for a remedy; empty if there are headings."""
        return "" if self.headed else ", by its number, counted from 1"

    def others(self) -> list[Column]:
        """The columns besides those of images and splits, of row numbers as pandas writes them, and
        of what Label Studio records about annotations."""
        headings = [plain(column.heading) for column in self.columns]
        recorded = RECORDED if ANNOTATION in headings else ()
        return [
            column
            for column, heading in zip(self.columns, headings, strict=True)
            if column not in (self.image, self.split)
            and heading not in recorded
            and not self._is_index(column)
        ]

    def known(self, words: Sequence[str]) -> list[Column]:
        """Columns whose heading is one of these words, in the order of the words."""
        found = [column for column in self.columns if plain(column.heading) in words]
        if any(_ACROSS.fullmatch(column.heading.lower()) for column in self.columns):
            found = [column for column in found if plain(column.heading) != "y"]
        return sorted(found, key=lambda column: words.index(plain(column.heading)))

    def called(self, option: str, name: str) -> Column:
        """The column that an option names by its heading or, without headings, by its number.

        Raises ConfigError if there is none, or more than one.
        """
        if not self.headed:
            if name.isdecimal() and 1 <= int(name) <= len(self.columns):
                return self.columns[int(name) - 1]
            raise ConfigError(
                f"{option} is {name}, and {self.path} has {self.listed}",
                remedy=f"name a column by its number, from 1 to {len(self.columns)}",
            )
        found = [column for column in self.columns if column.heading == name]
        found = found or [column for column in self.columns if plain(column.heading) == plain(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(
                f"{len(found)} columns of {self.path} are called {name}",
                remedy="give each column a heading of its own",
            )
        raise ConfigError(
            f"{option} is {name}, and {self.path} has {self.listed}",
            remedy=nearest(name, [column.heading for column in self.columns if column.heading]),
        )

    def ambiguous(self, what: str, found: Sequence[Column], remedy: str) -> DataError:
        """The error for several columns that may be the same thing.

        Args:
            what: What each of them does, as "names images" or "may be the split".
            found: The columns.
            remedy: What the user can do.
        """
        titles = ", ".join(column.title for column in found)
        return DataError(f"more than one column of {self.path} {what}: {titles}", remedy=remedy)

    def _is_index(self, column: Column) -> bool:
        if not any(column.cells):
            return True
        numbered = all(map(str.isdecimal, column.cells))
        numbered = numbered and len(set(column.cells)) == len(column.cells)
        return self.headed and numbered and bool(_INDEX.fullmatch(column.heading))

    def _image_column(self, names: ImageNames) -> Column:
        if self.config.image_column:
            return self.called("image_column", self.config.image_column)
        if len(self.columns) == 1:
            return self.columns[0]
        for known in (IMAGE, IDENTITY):
            found = [one for one in self.known(known) if _fraction(one, names.find)]
            if found:
                return self._the_one(found, names)
        labels = self.known(LABEL) if self.known((*IMAGE, *IDENTITY)) else []
        for test in (names.as_written, names.find):  # the second may list the folder's tree
            found = [column for column in self.columns
                     if column not in labels and _fraction(column, test) > 0.5]  # fmt: skip
            if found:  # beside a.jpg, the label 7 may also mean the image 7.jpg
                files = [column for column in found if _fraction(column, _is_file_name) == 1]
                return self._the_one(files or found, names)
        called = self.known((*IMAGE, *IDENTITY))
        if called := called or [one for one in self.columns if "://" in one.cells[0]]:
            return called[0]  # none of its images exists, which is reported later
        if not self.headed and len(self.columns) == 2:
            return self.columns[0]
        raise DataError(
            f"no column of {self.path} clearly names the images: it has {self.listed}",
            remedy=f"name it with --image-column{self.by_number}; if none of the images was found, "
            "give their folder with --image-folder",
        )

    def _the_one(self, found: Sequence[Column], names: ImageNames) -> Column:
        """The first of several columns, all of which must name the same images (else DataError)."""
        for cells in zip(*(column.cells[:PROBED] for column in found), strict=True):
            if len({tuple(names.find(cell)) for cell in cells}) > 1:
                remedy = "say with --image-column which of them is meant"
                raise self.ambiguous("names images", found, remedy)
        return found[0]

    def _split_column(self) -> Column | None:
        option = self.config.split_column
        headings = [column.heading for column in self.columns]
        if option and (option != NO_COLUMN or NO_COLUMN in headings):
            return self.called("split_column", option)
        if option:
            return None
        named = {*filter(None, self.config.label_column.split(","))}
        others = [column for column in self.columns if column is not self.image
                  and not {column.heading, str(column.number)} & named]  # fmt: skip
        found = [column for column in self.known(SPLIT) if column in others]
        found = found or [column for column in others if _divides(column, bool(self.known(LABEL)))]
        found = found or [column for column in others if _SPLIT_LIST.search(column.heading)]
        if not found and not self.headed and len(others) == 1 and _SPLIT_LIST.search(self.path):
            found = others
        if not found:
            return None
        if len(found) > 1:
            remedy = "say with --split-column which of them is meant, or `none`"
            raise self.ambiguous("may be the split", found, remedy)
        return found[0]


def _divides(column: Column, labelled: bool) -> bool:
    """Whether a column with an unknown heading holds the splits: its cells are train and test, or,
    if another column has the labels, true and false below a heading such as `train`."""
    cells = {*column.cells}
    if labelled and split_called(column.heading):
        return len(cells) == 2 and {cell.lower() for cell in cells} <= {*YES, *NO}
    splits = {*map(split_called, cells)}
    return "train" in splits and len(splits) > 1 and None not in splits


def _has_headings(
    rows: list[Row], find: NamesImage, as_written: NamesImage, config: LabelFileConfig
) -> bool:
    """Whether the first row has headings: it names no image, and it has known headings or the rows
    below it name images."""
    first = rows[0].cells
    if any(map(as_written, first)):
        return False
    options = (config.image_column, config.label_column, config.split_column)
    if is_heading(first) or any(option in first for option in options if not option.isdecimal()):
        return True
    if any(map(_is_file_name, first)):
        return False
    if any(cell.isdecimal() for cell in first) or any(map(find, first)):
        return False
    if any(plain(cell) in (*LABEL, *SPLIT) for cell in first):
        return True
    return any(any(map(find, row.cells)) for row in rows[1 : PROBED + 1])


def _width(first: list[str], rows: list[Row]) -> int:
    """The number of columns: without those at the end that have neither heading nor cells, as
    spreadsheets write them."""
    width = len(first)
    while width > 1 and not first[width - 1]:
        if any(any(row.cells[width - 1 : width]) for row in rows):
            break
        width -= 1
    return width


def _fitted(row: Row, width: int) -> Row:
    """The row with as many cells as there are columns: empty ones at the end come or go."""
    cells = row.cells
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    return row._replace(cells=cells + [""] * (width - len(cells)))


def _is_file_name(cell: str) -> bool:
    return PurePath(cell).suffix.lower() in IMAGE_EXTENSIONS


def _fraction(column: Column, names_image: Callable[[str], object]) -> float:
    """The fraction of the first cells that name an image."""
    cells = column.cells[:PROBED]
    return sum(map(bool, map(names_image, cells))) / len(cells)


# -- columns of other lists ------------------------------------------------------------------------


def _columns(
    path: str, rows: Sequence[Row], name: str
) -> tuple[list[str], dict[str, list[str]], int]:
    """The headings that a joined list adds, its cells by key, and the index of the key's column in
    the file."""
    place = Path(path).parent / name
    if not place.is_file():
        raise ConfigError(
            f"join names {name}, and there is no such file beside {path}",
            remedy="give its path relative to that of the label file",
        )
    keys = {at: {row.cells[at] for row in rows} for at in range(len(rows[0].cells))}
    keys = {at: cells for at, cells in keys.items() if len(cells) == len(rows)}
    known = set[str]().union(*keys.values())
    other = read_table(str(place), known.__contains__).rows
    for at, cells in keys.items():
        for column in range(len(other[0].cells)):
            found = [row.cells[column] for row in other if row.cells[column:]]
            if cells <= {*found} and len({*found}) == len(found):
                headed = found[0] not in cells and _is_headed(other, known)
                titles = other[0].cells if headed else [place.stem] * len(other[0].cells)
                more = {row.cells[column]: _without(_filled(row, len(titles)), column)
                        for row in other if row.cells[column:]}  # fmt: skip
                return _without(titles, column), more, at
    raise DataError(
        f"{place} has no column with one row for each of the {len(rows)} rows of {path}",
        remedy="join lists that name each image once, as the label file does or by its number",
    )


def _is_headed(rows: list[Row], known: Collection[str]) -> bool:
    """Whether the first row has headings. None of its cells occurs again below it, as would the
    cells of an image that the label file does not name."""
    again = any(cell in row.cells[at : at + 1] for row in rows[1:]
                for at, cell in enumerate(rows[0].cells))  # fmt: skip
    return not again and _has_headings(
        rows, known.__contains__, known.__contains__, LabelFileConfig()
    )


def _filled(row: Row, width: int) -> list[str]:
    return row.cells + [""] * (width - len(row.cells))


def _without(cells: Sequence[str], column: int) -> list[str]:
    return [*cells[:column], *cells[column + 1 :]]


def list_to_join(path: str, cell: str, names: ImageNames) -> str:
    """The list beside a label file that names the images which the file only numbers; empty if
    there is none.

    Args:
        path: The label file.
        cell: The cell of its first row, which begins with the number of an image.
        names: Looks up the names in the list.
    """
    number = cell.split()[0] if cell.split() else ""
    return next((name for name, words in _first_lines(path)
                 if words[0] == number and any(map(names.find, words[1:]))), "")  # fmt: skip


def _first_lines(path: str) -> Iterator[tuple[str, list[str]]]:
    """The names of the lists beside a file, with the words of their first lines."""
    for place in sorted(Path(path).parent.glob(f"*{Path(path).suffix}")):
        if place.name != Path(path).name and place.is_file():
            with place.open(encoding="utf-8", errors="surrogateescape") as file:
                yield place.name, re.split(r"[\s,;|]+", file.readline().strip())
