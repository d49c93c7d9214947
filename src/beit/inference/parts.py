"""Rows in a folder of parts: Parquet or JSON lines, each file whole or absent.

Which images a part holds follows from its number alone. So the same command continues after a kill,
with any number of processes, on any number of machines that share the folder: a part is done if its
file is there. `_beit.json` says what the rows were computed from; other rows are refused.
"""

from __future__ import annotations

import abc
import importlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np

from beit.atomic_io import flush, lock_file, make_folder, replace_file
from beit.claim import ANOTHER, UNFINISHED
from beit.config.bulk import Part
from beit.errors import RunFolderError, optional_library
from beit.inference.outputs import NO_LABEL, Cells, Column, Rows
from beit.json_object import read_object
from beit.terminal import printable

MANIFEST = "_beit.json"
"""Readers of a folder of Parquet files skip names that begin with an underscore."""
LAYOUT = 1
ALL = Part(1, 1)
FEWEST, MOST, PARTS = 256, 16_384, 1_000
GROUP = 1_024
"""Rows that are collected before they are written."""
REASONS = 8
"""How many reasons for unreadable images, and how many classes, a summary names."""


def rows_in_part(images: int) -> int:
    """Rows per part: few enough that a killed process loses little, and not too many parts."""
    return min(max(math.ceil(images / PARTS), FEWEST), MOST)


class Parts:
    """The parts of one folder; made by `open_parts`."""

    def __init__(
        self, folder: Path, plan: Mapping[str, Any], columns: Mapping[str, Column]
    ) -> None:
        self.folder, self.plan, self.columns = folder, plan, columns
        self.images, self.size = int(plan["images"]), int(plan["part_rows"])
        self.count = math.ceil(self.images / self.size)
        self.format = str(plan["format"])

    def path(self, number: int) -> Path:
        """Where a part belongs."""
        digits = max(len(str(self.count - 1)), 5)
        return self.folder / f"part-{number:0{digits}}.{self.format}"

    def positions(self, number: int) -> range:
        """The images of a part."""
        return range(number * self.size, min((number + 1) * self.size, self.images))

    def missing(self, part: Part = ALL) -> list[int]:
        """The numbers of the parts that a process is to write and that are not there yet."""
        there = {file.name for file in os.scandir(self.folder)}
        own = range(part.number - 1, self.count, part.total)
        return [number for number in own if self.path(number).name not in there]

    @contextmanager
    def writing(self, number: int, part: Part) -> Iterator[PartFile]:
        """A part to write row by row; its file appears when the block ends without an error."""
        final = self.path(number)
        temporary = final.with_name(f"{UNFINISHED}{part}-{uuid4().hex[:8]}-{final.name}")
        try:
            with temporary.open("wb") as handle:
                kind = ParquetFile if self.format == "parquet" else LinesFile
                file = kind(handle, self.columns, self.plan)
                yield file
                file.close()
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(final)  # if two processes write it, the last wins: both are equal
            flush(self.folder)
        finally:
            temporary.unlink(missing_ok=True)

    def remove_unfinished(self, part: Part | None = None) -> None:
        """Remove what killed processes left, or only those that were to write this part."""
        for file in self.folder.glob(f"{UNFINISHED}{part or ''}{'-' if part else ''}*"):
            file.unlink(missing_ok=True)

    def tally(self, numbers: Sequence[int]) -> Tally:
        """Count what these parts hold."""
        found, several = Tally(), bool(self.plan.get("multi_label"))
        for number in numbers:
            read = _read_parquet if self.format == "parquet" else _read_lines
            for keys, errors, classes in read(self.path(number), "classes" in self.columns):
                if several:
                    pairs = zip(classes, errors, strict=True)
                    answers = [each or [NO_LABEL] * (not error) for each, error in pairs]
                else:
                    answers = [each[:1] for each in classes]
                found.add(keys, errors, answers)
        return found


def open_parts(folder: Path, plan: Mapping[str, Any], columns: Mapping[str, Column]) -> Parts:
    """Open a new folder, or one whose rows have the same plan.

    Args:
        folder: Where the parts are.
        plan: What the rows depend on: model, data, options; values of JSON. If `part_rows` is None,
            it is that of the folder or, in a new one, chosen.
        columns: The columns of the table, by name.

    Raises:
        RunFolderError: The folder holds something else, or rows of another plan.
        ResourceError: A library is not installed.
    """
    if plan["format"] == "parquet":
        _pyarrow()
    place = folder / MANIFEST
    plan = {"layout": LAYOUT, **plan}
    make_folder(folder)
    lock = folder / f"{UNFINISHED}lock"
    handle = lock_file(lock)
    try:
        if place.is_file():
            there = read_object(place, RunFolderError, ANOTHER)
            plan["part_rows"] = plan["part_rows"] or there.get("part_rows")
            _check_same(folder, there, plan)
        else:
            plan["part_rows"] = plan["part_rows"] or rows_in_part(plan["images"])
            others = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
            if others:
                raise RunFolderError(
                    f"{folder} exists and is not empty: nothing is overwritten", remedy=ANOTHER
                )
            replace_file(place, [json.dumps(plan, indent=1).encode()])
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)
    return Parts(folder, plan, columns)


def _check_same(folder: Path, there: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Raise RunFolderError unless the rows that are there have the same plan."""
    words = {
        "model": "of another model",
        "data": "of other images: some were added, removed, renamed or changed",
    }
    for name, value in plan.items():
        if there.get(name) != value:
            raise RunFolderError(
                f"{folder} holds rows "
                + words.get(name, f"with {name} {there.get(name)}, and now it is {value}"),
                remedy="go on as it was begun, or choose another --out",
            )


class PartFile(abc.ABC):
    """A part that is being written."""

    def __init__(
        self, handle: IO[bytes], columns: Mapping[str, Column], plan: Mapping[str, Any]
    ) -> None:
        self._handle, self._columns, self._plan = handle, columns, plan

    @abc.abstractmethod
    def write(self, rows: Rows) -> None:
        """Append rows."""

    def close(self) -> None:  # noqa: B027 - a format without an end
        """Write what is still held back."""


class LinesFile(PartFile):
    """One JSON object per image and line."""

    def write(self, rows: Rows) -> None:
        cells = {name: _listed(rows.cells.get(name)) for name in self._columns}
        for at, (key, error) in enumerate(zip(rows.keys, rows.errors, strict=True)):
            row: dict[str, Any] = {"position": rows.first + at, "key": key}
            if error:
                row["error"] = error
            else:
                row |= {name: column[at] for name, column in cells.items()}
            self._handle.write(json.dumps(row).encode() + b"\n")


def _listed(cells: Cells | None) -> list[Any]:
    return cells.tolist() if isinstance(cells, np.ndarray) else list(cells or ())


class ParquetFile(PartFile):
    """Columns `position`, `key`, those of the answer, and `error`, which is null if answered."""

    def __init__(
        self, handle: IO[bytes], columns: Mapping[str, Column], plan: Mapping[str, Any]
    ) -> None:
        super().__init__(handle, columns, plan)
        self._arrow, parquet = _pyarrow()
        about = {f"beit.{name}": str(value) for name, value in plan.items()}
        pa = self._arrow
        self._schema = pa.schema(
            [
                pa.field("position", pa.int64()),
                pa.field("key", pa.string()),
                *(pa.field(name, _type(pa, column)) for name, column in columns.items()),
                pa.field("error", pa.string()),
            ],
            metadata=about,
        )
        words = [name for name, column in columns.items() if column.type == "string"]
        self._writer = parquet.ParquetWriter(
            handle, self._schema, compression="zstd", use_dictionary=[*words, "error"]
        )
        self._held: list[Any] = []

    def write(self, rows: Rows) -> None:
        pa, length = self._arrow, len(rows.keys)
        wrong = np.array([bool(error) for error in rows.errors])
        cells = [
            _array(pa, rows.cells.get(name), column, wrong)
            for name, column in self._columns.items()
        ]
        arrays = [
            pa.array(np.arange(rows.first, rows.first + length)),
            pa.array([key.encode("utf-8", "backslashreplace").decode() for key in rows.keys]),
            *cells,
            pa.array([error or None for error in rows.errors], pa.string()),
        ]
        self._held.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        if sum(map(len, self._held)) >= GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(self._arrow.Table.from_batches(self._held))
            self._held.clear()

    def close(self) -> None:
        self._flush()
        self._writer.close()


def _pyarrow() -> tuple[Any, Any]:
    with optional_library("Parquet needs pyarrow", "parquet", instead=", or write --format jsonl"):
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")


def _type(pa: Any, column: Column) -> Any:
    kind = pa.type_for_alias(column.type)
    if column.length is None:
        return kind
    return pa.list_(kind, column.length) if column.length else pa.list_(kind)


def _array(pa: Any, cells: Cells | None, column: Column, wrong: np.ndarray) -> Any:
    kind = _type(pa, column)
    if cells is None:
        return pa.nulls(len(wrong), kind)
    if isinstance(cells, np.ndarray):
        values = pa.array(cells.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(wrong))
    return pa.array([None if bad else one for one, bad in zip(cells, wrong, strict=True)], kind)


Read = tuple[list[str], list[str], list[list[str]]]
"""Columns of some rows: names of the images, why they have no answer, and their classes."""


def _read_parquet(path: Path, classes: bool) -> Iterator[Read]:
    _, parquet = _pyarrow()
    columns = ["key", "error", "classes"] if classes else ["key", "error"]
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=columns):
            keys = batch.column("key").to_pylist()
            errors = [error or "" for error in batch.column("error").to_pylist()]
            named = batch.column("classes").to_pylist() if classes else []
            yield keys, errors, [each or [] for each in named]


def _read_lines(path: Path, _classes: bool) -> Iterator[Read]:
    with path.open() as file:
        for line in file:
            row = json.loads(line)
            yield [row["key"]], [row.get("error", "")], [row.get("classes", [])]


@dataclass
class Tally:
    """Counts of what was answered, and of what was not."""

    images: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    """Of each image the best class or, from a multi-label model, all that count."""
    examples: list[str] = field(default_factory=list)
    """A few images without an answer."""

    def add(self, keys: list[str], errors: list[str], classes: list[list[str]]) -> None:
        """Count some rows.

        Args:
            keys: Names of the images.
            errors: Why each has no answer; empty if it has one.
            classes: Of each image the classes to count.
        """
        self.images += len(errors)
        self.reasons.update(filter(None, errors))
        self.classes.update(chain.from_iterable(classes))
        lost = (key for key, error in zip(keys, errors, strict=True) if error)
        self.examples += islice(lost, REASONS - len(self.examples))

    @property
    def unreadable(self) -> int:
        return sum(self.reasons.values())

    def lines(self) -> Iterator[str]:
        """Lines to print: the reasons and the classes, most frequent first."""
        for what, counts in (("unreadable", self.reasons), ("", self.classes)):
            for name, count in counts.most_common(REASONS):
                yield printable(f"  {what + ': ' if what else ''}{name}: {count:,}")
            if len(counts) > REASONS:
                rest = sum(counts.values()) - sum(n for _, n in counts.most_common(REASONS))
                yield f"  {what + ': ' if what else ''}{len(counts) - REASONS:,} others: {rest:,}"
