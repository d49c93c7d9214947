"""Text files of rows and cells: which characters, which separator, which line a row stands on."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from beit.data.listing import quoted
from beit.errors import DataError
from beit.json_object import parse_json
from beit.terminal import printable

SEPARATORS = {"\t": "tab", ";": "semicolon", "|": "pipe", ",": "comma"}
"""In the order in which they are tried: a comma also stands in numbers and in names."""
SPACE = " "
PROBED = 20
SAMPLE = 2**16
BINARY = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"SQLite": "a database",
}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Row(NamedTuple):
    """One row; `line` is where it begins in the file, counted from 1."""

    line: int
    cells: list[str]


class Table(NamedTuple):
    """The rows that are not empty, with cells stripped of spaces. Headings are still among them."""

    rows: list[Row]
    separator: str
    """In words; empty where the file has one column."""
    keyed: bool = False
    """Whether the headings are the keys of JSON objects, and surely headings."""
    comments: int = 0
    """Lines that begin with # and are passed over."""


NamesImage = Callable[[str], object]
"""Something true of a cell that names an image that is there."""
IsHeading = Callable[[Sequence[str]], bool]
"""Whether cells look like headings that are known."""


def read_table(
    path: str, as_written: NamesImage, names_image: NamesImage, is_heading: IsHeading
) -> Table:
    """The rows of a text file, whatever its separator, encoding, quotes and ends of lines.

    Args:
        path: A file with cells between tabs, semicolons, pipes, commas or spaces, or with one JSON
            object per line (.jsonl). `sep=;` in the first line is obeyed, as Excel writes it.
        as_written: Decides between separators that would all do.
        names_image: Likewise; asked only where nothing is there as written, since it may search.
        is_heading: Likewise.

    Returns:
        The rows. Bytes that are not UTF-8 are surrogates, as in the names of files: see `as_text`.

    Raises:
        DataError: If it cannot be read, is no text, has no rows, or a quote is never closed.
    """
    text = _decoded(path)
    if Path(path).suffix.lower() == ".jsonl":
        return _json_lines(path, text)
    first, _, rest = text.partition("\n")
    first = first.strip()
    if first.lower().startswith("sep=") and len(first) == 5:
        rows = _parse(path, rest, first[-1], start=2)
        separator = SEPARATORS.get(first[-1], first[-1])
    else:
        best = _separator(path, text, as_written, is_heading)
        if best is None or not best.found:
            best = _separator(path, text, names_image, is_heading) or best
        mark = best.separator if best else None
        rows = _parse(path, text, mark) if mark is not None else _last_space(text, names_image)
        several = any(len(row.cells) > 1 for row in rows)
        separator = SEPARATORS.get(mark or SPACE, "space") if several else ""
    kept = _without_comments(rows, names_image, is_heading)
    if not kept:
        raise DataError(f"the list {path} names no images", remedy="write one path per line")
    return Table(kept, separator, comments=len(rows) - len(kept))


def as_text(cell: str) -> str:
    """A cell whose bytes were not UTF-8 as Windows-1252, else Latin-1, has them: é, ü, ñ."""
    if cell.isascii():
        return cell
    try:
        cell.encode()
    except UnicodeEncodeError:
        data = cell.encode("utf-8", "surrogateescape")
        try:
            return data.decode("cp1252")
        except UnicodeDecodeError:
            return data.decode("latin-1")
    return cell


def _decoded(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"the list {path} cannot be read: {error.strerror}", remedy="make it readable"
        ) from error
    for start, what in BINARY.items():
        if data.startswith(start):
            raise DataError(
                f"the list {path} is {what}, and no text", remedy="export it as a CSV file"
            )
    found = [(mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)]
    mark, encoding = found[0] if found else (b"", _unmarked(data))
    errors = "surrogateescape" if encoding == "utf-8" else "strict"
    try:
        text = data[len(mark) :].decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise DataError(
            f"the list {path} begins as {encoding.upper()}, and breaks its rules: {error.reason}",
            remedy="save it again, best in UTF-8",
        ) from error
    zero = text.find("\0")
    if zero >= 0:
        raise DataError(
            f"the list {path} holds a zero byte in line {text.count(chr(10), 0, zero) + 1}",
            remedy="save it as text, best in UTF-8",
        )
    return text


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _unmarked(data: bytes) -> str:
    """UTF-16 without a mark has a zero in every other byte of Latin letters; all else is UTF-8,
    where `as_text` looks after single bytes."""
    sample = data[:4096]
    half = max(len(sample) // 2, 1)
    if sample[1::2].count(0) > 0.4 * half:
        return "utf-16-le"
    return "utf-16-be" if sample[::2].count(0) > 0.4 * half else "utf-8"


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
                stripped.pop()  # spaces at the end of a line
            if any(stripped):
                rows.append(Row(line, stripped))
            line = start + reader.line_num
    except csv.Error as error:
        raise DataError(
            f"the list {path} cannot be read from line {line} on: {error}",
            remedy='close every quote; a quote inside quotes is written twice: ""',
        ) from error
    return rows


def _last_space(text: str, names_image: NamesImage) -> list[Row]:
    """Rows of a file without a separator: lines, or names with spaces and a label behind them."""
    lines = [Row(number, [line.strip()]) for number, line in enumerate(_lines(text), start=1)]
    lines = [row for row in lines if row.cells[0]]
    pairs = [row._replace(cells=row.cells[0].rsplit(None, 1)) for row in lines]
    probed = pairs[:PROBED]
    if any(len(row.cells) == 2 and names_image(row.cells[0]) for row in probed):
        return pairs
    return [Row(row.line, [row.cells[0].strip('"')]) for row in lines]


def _without_comments(rows: list[Row], names_image: NamesImage, is_heading: IsHeading) -> list[Row]:
    """Without lines that begin with # and name no image; headings may follow a #."""
    kept = []
    for row in rows:
        first = row.cells[0]
        if not first.startswith("#") or any(map(names_image, row.cells)):
            kept.append(row)
            continue
        heading = [first.lstrip("# "), *row.cells[1:]]
        heading = heading if heading[0] else heading[1:]
        if not kept and len(heading) > 1 and is_heading(heading):
            kept.append(row._replace(cells=heading))
    return kept


class _Separator(NamedTuple):
    known: bool
    """Whether the first row looks like headings that are known."""
    found: float
    """How many of the first rows name an image."""
    alike: float
    """How many rows have as many cells as the first."""
    separator: str | None = None
    """None: whole lines are names, whatever they contain."""


def _separator(
    path: str, text: str, names_image: NamesImage, is_heading: IsHeading
) -> _Separator | None:
    """The separator that makes the best table of the beginning; None without one."""
    sample = text if len(text) <= SAMPLE else text[: text.rfind("\n", 0, SAMPLE) + 1] or text
    lines = [line.strip() for line in _lines(sample) if line.strip()]
    probed = lines[:PROBED]
    whole = sum(bool(names_image(line)) for line in probed) / max(len(probed), 1)
    if whole > 0.5:
        return _Separator(False, whole, 1)
    best: _Separator | None = None
    for separator in (*SEPARATORS, SPACE):
        if separator == SPACE and best is not None:
            break
        try:
            rows = _parse(path, sample, separator)
        except DataError:
            continue
        rows = [row for row in rows if not row.cells[0].startswith("#")] or rows
        widths = Counter(len(row.cells) for row in rows)
        width = len(rows[0].cells) if rows else 0
        if width < 2:
            continue
        known = is_heading(rows[0].cells)
        found = _rows_with_images(rows[1:] or rows, names_image)
        alike = widths[width] / len(rows)
        if separator == SPACE and (alike < 1 or not (known or found)):
            continue
        rank = _Separator(known, found, alike, separator)
        if best is None or rank[:3] > best[:3]:
            best = rank
    if best is None and '"' in sample:
        _parse(path, text, ",")  # says where a quote is not closed
    return best


def _rows_with_images(rows: list[Row], names_image: NamesImage) -> float:
    probed = rows[:PROBED]
    return sum(any(names_image(cell) for cell in row.cells) for row in probed) / len(probed)


def _json_lines(path: str, text: str) -> Table:
    """Objects with the same keys, as `metadata.jsonl` of Hugging Face; lists are tags."""
    objects: list[tuple[int, dict[str, object]]] = []
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
            json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"line {number} of {path} is no JSON in UTF-8: {printable(error)}",
                remedy='write one object per line: {"file_name": "1.png", "label": "cat"}',
            ) from error
        if not isinstance(value, dict):
            raise DataError(
                f"line {number} of {path} is no JSON object: {printable(line)[:60]}",
                remedy='write one object per line: {"file_name": "1.png", "label": "cat"}',
            )
        objects.append((number, value))
    if not objects:
        raise DataError(f"the list {path} names no images", remedy="write one object per line")
    keys = list(dict.fromkeys(key for _, value in objects for key in value))
    rows = [Row(number, [_cell(value.get(key)) for key in keys]) for number, value in objects]
    return Table([Row(0, keys), *rows], "JSON", keyed=True)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return value.strip() if isinstance(value, str) else json.dumps(value)


def cell_lines(rows: Sequence[tuple[int, str]], limit: int = 3) -> str:
    """Lines with what stands there, for a message: "line 4 ('p03.jpg') and 2 more"."""
    shown = ", ".join(
        f"line {line} ({quoted([printable(text)])})" if text else f"line {line}"
        for line, text in rows[:limit]
    )
    return shown + (f" and {len(rows) - limit} more" if len(rows) > limit else "")
