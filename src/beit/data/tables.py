"""Reads text files of rows and cells: detects their encoding and separator, and keeps the line
number of each row."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from beit.data.label_studio import are_tasks, rows_of_tasks
from beit.data.listing import JSON_LINES, JSON_LIST
from beit.errors import DataError
from beit.json_object import parse_json, parse_list

IMAGE = (
    "image", "images", "imagename", "imagefile", "imagefilename", "imagepath", "imagefilepath",
    "imageindex", "img", "imgs", "imgname", "imgfile", "imgfilename", "imgpath", "file", "files",
    "filename", "filenames", "filepath", "filepaths", "path", "paths", "relativepath",
    "filelocation", "picture", "pictures", "picturename", "picturefile", "picturepath", "photo",
    "photoname",
)  # fmt: skip
IDENTITY = (
    "id", "imageid", "imgid", "idcode", "imageidentifier", "photoid", "pictureid", "uid", "uuid",
    "name", "key", "url", "uri", "link", "imageurl", "imageuri", "imagelink", "photourl",
)  # fmt: skip
"""Headings of columns that may hold the names of images, if no column has one of `IMAGE`."""
SEPARATORS = "\t;|,"
"""Tried in this order, as commas also occur in numbers and names."""
SPACE = " "
PROBED = 20
SAMPLE = 2**16
_BINARY = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"SQLite": "a database",
}
_MARKS = {  # UTF-32 first, as its mark begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_SIGNS = re.compile(r"[\s_\-./#:]+")
_EXAMPLE = (
    'write objects such as {"file_name": "1.png", "label": "cat"}: one per line into a .jsonl '
    "file, or a list of them into a .json file"
)

NamesImage = Callable[[str], object]
"""Returns something true for a cell that names an image, or whatever else a list is about."""


class Row(NamedTuple):
    """One row, and the line of the file on which it begins, counted from 1."""

    line: int
    cells: list[str]


class Table(NamedTuple):
    """The rows that are not empty, including headings, with stripped cells."""

    rows: list[Row]
    keyed: bool = False
    """Whether the first row is the keys of JSON objects, and so surely one of headings."""
    answers: tuple[str, ...] | None = None
    """For tasks of annotators, the headings of their answers, which are labels and may be empty;
    None for other data."""
    notes: tuple[str, ...] = ()
    """Remarks on what was skipped."""


def plain(heading: str) -> str:
    """A heading in one spelling: "File Name", "file_name" and "FILENAME" become "filename"."""
    return _SIGNS.sub("", heading).lower()


def is_heading(cells: Sequence[str]) -> bool:
    """Whether one of the cells is a known heading of a column of images."""
    return any(plain(cell) in (*IMAGE, *IDENTITY) for cell in cells)


def read_table(path: str, find: NamesImage, as_written: NamesImage | None = None) -> Table:
    """The rows of a text file, whatever its separator, encoding, quotes and ends of lines.

    Args:
        path: A file with cells separated by tabs, semicolons, pipes, commas or spaces; with one
            JSON object per line (.jsonl); or with a list of them (.json), such as the tasks of
            Label Studio. A first line such as `sep=;`, which Excel writes, is obeyed.
        find: Recognises the name of an image. If several separators are possible, the one is chosen
            with which the first row has known headings, or more cells are names.
        as_written: Does the same without a search in the data's folder; it is tried first.

    Returns:
        The rows. Bytes that are not UTF-8 become surrogates, as in file names: see `as_text`.

    Raises:
        DataError: The file cannot be read, is not text, has no rows, or a quote is never closed.
    """
    whole = _decoded(path)
    if Path(path).suffix.lower() in (*JSON_LINES, JSON_LIST):
        return _objects(path, whole)
    text = _without_count(whole)
    first, _, rest = text.partition("\n")
    stated = first.strip()
    if stated.lower().startswith("sep=") and len(stated) == 5:
        rows = _parse(path, rest, stated[-1], start=2)
    else:
        separator, found = _separator(path, text, as_written or find)
        if not found:  # only now, as `find` may search the whole folder
            separator, _ = _separator(path, text, find)
        rows = _parse(path, text, separator) if separator else _whole_lines(text, find)
    kept = _without_comments(rows, find)
    if not kept:
        raise DataError(f"the list {path} names no images", remedy="write one path per line")
    completed = _completed(kept, find)
    comments = f"comment lines (#) skipped: {len(rows) - len(kept)}"
    counted = "the first line, which counts the others, is skipped"
    notes = (comments,) * (len(kept) < len(rows)) + (counted,) * (text is not whole)
    return Table(completed, notes=notes)


def _without_count(text: str) -> str:
    """The text without a first line that counts the others, as in the lists of CelebA. An empty one
    takes its place, so that lines keep their numbers."""
    first, _, rest = text.partition("\n")
    if not first.strip().isdecimal():
        return text
    lines = [line for line in rest.split("\n") if line.strip()]
    counts = first.strip() in (str(len(lines)), str(len(lines) - 1))
    return f"\n{rest}" if counts and re.search(r"\S[\t;|, ]+\S", lines[-1]) else text


def _completed(rows: list[Row], names_image: NamesImage) -> list[Row]:
    """The rows, with an empty heading added for the images if the first row has one cell less than
    the others and these begin with images: so CelebA has it, and so R writes it."""
    first, *others = rows
    short = {len(row.cells) for row in others} == {len(first.cells) + 1}
    if not short or is_heading(first.cells) or any(map(names_image, first.cells)):
        return rows
    if not all(names_image(row.cells[0]) for row in others[:PROBED]):
        return rows
    return [first._replace(cells=["", *first.cells]), *others]


def _decoded(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"the list {path} cannot be read: {error.strerror}", remedy="make it readable"
        ) from error
    for start, what in _BINARY.items():
        if data.startswith(start):
            raise DataError(
                f"the list {path} is {what}, and no text", remedy="export it as a CSV file"
            )
    mark = next(filter(data.startswith, _MARKS), b"")
    encoding = _MARKS[mark] if mark else _unmarked(data)
    errors = "surrogateescape" if encoding == "utf-8" else "strict"
    try:
        text = data[len(mark) :].decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise DataError(
            f"the list {path} begins as {encoding.upper()}, and breaks its rules: {error.reason}",
            remedy="save it again, best in UTF-8",
        ) from error
    if (zero := text.find("\0")) >= 0:
        raise DataError(
            f"the list {path} holds a zero byte in line {text.count(chr(10), 0, zero) + 1}",
            remedy="save it as text, best in UTF-8",
        )
    return text


def _unmarked(data: bytes) -> str:
    """The encoding of text without a byte order mark: UTF-16, in which every other byte of Latin
    letters is zero, or else UTF-8, whose invalid bytes `as_text` decodes later."""
    sample = data[:4096]
    half = max(len(sample) // 2, 1)
    if sample[1::2].count(0) > 0.4 * half:
        return "utf-16-le"
    return "utf-16-be" if sample[::2].count(0) > 0.4 * half else "utf-8"


def _lines(text: str) -> list[Row]:
    """The lines that are not empty, each as one cell."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [Row(at, [line.strip()]) for at, line in enumerate(lines, start=1) if line.strip()]


def _parse(path: str, text: str, separator: str, start: int = 1) -> list[Row]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    rows = []
    line = start
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            while len(stripped) > 1 and not stripped[-1] and separator == SPACE:
                stripped.pop()  # from spaces at the end of a line
            if any(stripped):
                rows.append(Row(line, stripped))
            line = start + reader.line_num
    except csv.Error as error:
        raise DataError(
            f"the list {path} cannot be read from line {line} on: {error}",
            remedy='close every quote; a quote inside quotes is written twice: ""',
        ) from error
    return rows


def _separator(path: str, text: str, names_image: NamesImage) -> tuple[str, bool]:
    """The separator that makes the best table of the beginning of a file, empty if whole lines are
    names; and whether any cell then names an image."""
    sample = text if len(text) <= SAMPLE else text[: text.rfind("\n", 0, SAMPLE) + 1] or text
    if (whole := _fraction(_lines(sample), names_image)) > 0.5:
        return "", bool(whole)
    best: tuple[bool, float, float] | None = None  # known headings, rows with images, equal widths
    chosen = ""
    for separator in SEPARATORS + SPACE:
        if separator == SPACE and best is not None:
            break
        try:
            rows = _parse(path, sample, separator)
        except DataError:
            continue
        rows = [row for row in rows if not row.cells[0].startswith("#")] or rows
        rows = _completed(rows, names_image) if rows else rows
        width = len(rows[0].cells) if rows else 0
        if width < 2:
            continue
        alike = Counter(len(row.cells) for row in rows)[width] / len(rows)
        rank = (is_heading(rows[0].cells), _fraction(rows[1:] or rows, names_image), alike)
        if separator == SPACE and (alike < 1 or not (rank[0] or rank[1])):
            continue
        if best is None or rank > best:
            best, chosen = rank, separator
    if best is None and '"' in sample:
        _parse(path, text, ",")  # raises the error that says where a quote is not closed
    return chosen, best is not None and best[1] > 0


def _fraction(rows: list[Row], names_image: NamesImage) -> float:
    """The fraction of the first rows that have a cell which names an image."""
    probed = rows[:PROBED]
    return sum(any(map(names_image, row.cells)) for row in probed) / max(len(probed), 1)


def _whole_lines(text: str, names_image: NamesImage) -> list[Row]:
    """The rows of a file without a separator: whole lines; or names and labels, which a space
    separates although one of them contains spaces, too."""
    lines = _lines(text)
    best, most = [row._replace(cells=[row.cells[0].strip('"')]) for row in lines], 0
    for halve in (str.rsplit, str.split):
        pairs = [row._replace(cells=halve(row.cells[0], None, 1)) for row in lines]
        probed = (row.cells for row in pairs[:PROBED] if len(row.cells) == 2)
        found = sum(bool(names_image(name)) for name, _ in probed)
        if found > most:
            best, most = pairs, found
    return best


def _without_comments(rows: list[Row], names_image: NamesImage) -> list[Row]:
    """The rows without comments: those that begin with # and name no image. A # may precede
    headings, which are kept."""
    kept: list[Row] = []
    for row in rows:
        first, *others = row.cells
        if not first.startswith("#") or any(map(names_image, row.cells)):
            kept.append(row)
            continue
        heading = [*filter(None, [first.lstrip("# ")]), *others]
        if not kept and len(heading) > 1 and is_heading(heading):
            kept.append(row._replace(cells=heading))
    return kept


def _objects(path: str, text: str) -> Table:
    """The table of JSON objects with the same keys, as in Hugging Face's `metadata.jsonl`."""
    objects: list[tuple[int, dict[str, object]]] = []
    for line, value in _values(path, text):
        try:
            written = json.dumps(value, ensure_ascii=False)
            written.encode()
        except (ValueError, RecursionError) as error:  # half of a surrogate pair, or too deep
            raise DataError(
                f"line {line} of {path} is not JSON in UTF-8: {error}", remedy=_EXAMPLE
            ) from error
        if not isinstance(value, dict):
            raise DataError(
                f"line {line} of {path} is not a JSON object: {written[:60]}", remedy=_EXAMPLE
            )
        objects.append((line, value))
    if not objects:
        raise DataError(f"the list {path} names no images", remedy=_EXAMPLE)
    answers: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    if are_tasks([value for _, value in objects]):
        objects, answers, notes = rows_of_tasks(objects)
    keys = list(dict.fromkeys(key for _, value in objects for key in value))
    rows = [Row(line, [_cell(value.get(key)) for key in keys]) for line, value in objects]
    return Table([Row(0, keys), *rows], keyed=True, answers=answers, notes=notes)


def _values(path: str, text: str) -> Iterator[tuple[int, object]]:
    """The values of a JSON list (.json) or of lines, each with the line on which it begins."""
    if Path(path).suffix.lower() == JSON_LIST:
        try:
            yield from parse_list(text)
        except ValueError as error:
            raise DataError(f"{path} holds no JSON list: {error}", remedy=_EXAMPLE) from error
        return
    for line, (content,) in _lines(text):
        try:
            yield line, parse_json(content)
        except ValueError as error:
            raise DataError(
                f"line {line} of {path} is not JSON: {error}", remedy=_EXAMPLE
            ) from error


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return value.strip() if isinstance(value, str) else json.dumps(value)
