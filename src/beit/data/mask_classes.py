"""The classes of masks: read from the class lists and legends beside them (legend.json, CVAT's
labelmap.txt, CamVid's class_dict.csv), and compared with the labels that the masks hold.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from beit.config.segment_run import IGNORE
from beit.data.mask_labels import BINARY_CLASSES, Legend, MaskReading, Surveyed
from beit.errors import DataError
from beit.json_object import read_object
from beit.terminal import counted, printable, quoted

LEGENDS = ("legend.json", "labelmap.txt", "class_dict.csv")
CLASS_LISTS = ("classes.txt", "_classes.csv")
"""A list with one class name per line, and Roboflow's table of values and names."""
_JSON_REMEDY = 'write an object such as {"#ff0000": "roof", "#000000": null}'
_TABLE_REMEDY = "write the heading 'name,r,g,b', then lines such as 'Building,128,0,0'"
_NO_CLASS = ("void", "unlabeled", "unlabelled", "unknown", "ignore", "ignored")
"""Names of unlabelled pixels in tables, which have no other way to mark them."""
_CVAT_REMEDY = "write lines such as 'roof:250,50,20::', after '# label:color_rgb:parts:actions'"
_NUMBER = re.compile(r"(class )?\d+")
_NUMBERED = re.compile(r"(\d+)(?:\s*[:,;=]\s*|\s+)(\S.*)")
"""A line of a class list with the value before the name: `0: background`."""


def read_lines(path: Path, what: str, remedy: str) -> list[str]:
    """The lines of a small text file in UTF-8, without their line ends.

    Args:
        path: The file.
        what: What the error message calls it, such as "legend".
        remedy: What the error message advises.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"the {what} {path} cannot be read: {error}", remedy=remedy) from error


def read_names(path: Path) -> tuple[str, ...]:
    """The lines of a list, stripped and without empty ones.

    Raises:
        DataError: The file cannot be read, or it is empty.
    """
    found = tuple(filter(None, map(str.strip, read_lines(path, "list", "check it"))))
    if not found:
        raise DataError(f"the list {path} is empty", remedy="write one name per line")
    return found


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of their labels: one per line, where all lines may begin with the
    value; or a table of values and names (.csv).

    Raises:
        DataError: The file cannot be read, or its values do not count up from 0.
    """
    if path.suffix.lower() != ".csv":
        names = read_names(path)
        numbered = map(_NUMBERED.fullmatch, names)
        rows = [[found[1], found[2]] for found in numbered if found]
        values = {int(value) for value, _ in rows}
        from_0, from_1 = (set(range(first, first + len(names))) for first in (0, 1))
        if len(names) < 2 or values not in (from_0, from_1):
            return names
        remedy = "write one name per line, in the order of their values; or lines such as "
    else:
        lines = csv.reader(read_lines(path, "list", "check it"))
        rows = [row for row in lines if any(row)][1:]
        remedy = "write a heading, then lines such as "
    named = {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
    if len(named) != len(rows) or list(named) != [str(value) for value in range(len(named))]:
        raise DataError(
            f"{path} is not a table of pixel values from 0 and names",
            remedy=f"{remedy}'0, background'",
        )
    return tuple(named.values())


def find_beside(option: str, path: str, names: tuple[str, ...], flag: str) -> Path | None:
    """The file that an option names, or the usual one beside the folders; None without either.

    Args:
        option: The path that the user gave; empty if none.
        path: The data's folder.
        names: The usual names of the file.
        flag: The option as it is typed, for the error message.

    Raises:
        DataError: The folder holds several of the usual files.
    """
    if option:
        return Path(option)
    found = [Path(path, name) for name in names if Path(path, name).is_file()]
    if len(found) > 1:
        raise DataError(
            f"{path} holds {quoted([each.name for each in found])}, which may differ",
            remedy=f"say which counts with {flag}",
        )
    return found[0] if found else None


def read_legend(path: Path) -> Legend:
    """The legend of masks in colours, from a file in one of three forms: a JSON object that maps
    colours ("#rrggbb") to class names or null, CVAT's lines `label:r,g,b:parts:actions`, or a table
    with the columns name, r, g, b.

    Raises:
        DataError: The file is in none of these forms, or names no colour.
    """
    read = {".json": _json_legend, ".csv": _table_legend}.get(path.suffix.lower(), _cvat_legend)
    legend = read(path)
    if not legend:
        raise DataError(f"the legend {path} holds no colours", remedy="write one for each class")
    return legend


def without_unlabelled(legend: Legend) -> tuple[Legend, list[str]]:
    """The legend with classes such as void and unlabelled ignored, and the names of those."""
    ignored = [name for name in legend.values() if name and name.lower() in _NO_CLASS]
    return {at: None if name in ignored else name for at, name in legend.items()}, ignored


def _json_legend(path: Path) -> Legend:
    legend: Legend = {}
    for colour, name in read_object(path, DataError, _JSON_REMEDY).items():
        digits = colour.removeprefix("#")
        if len(digits) != 6 or set(digits.lower()) - set("0123456789abcdef"):
            raise DataError(f"'{printable(colour)}' in {path} is not a colour", remedy=_JSON_REMEDY)
        if name is not None and not isinstance(name, str):
            raise DataError(f"the class of '{colour}' in {path} is {name!r}", remedy=_JSON_REMEDY)
        legend[int(digits, 16)] = name
    return legend


def _cvat_legend(path: Path) -> Legend:
    """CVAT's formats "CamVid" and "Segmentation mask", whose first line is a comment."""
    rows = []
    for number, line in enumerate(read_lines(path, "legend", _CVAT_REMEDY), start=1):
        if line.strip() and not line.startswith("#"):
            name, _, rest = line.partition(":")
            rows.append((number, name, rest.partition(":")[0].split(",")))
    return _legend_of(path, rows, _CVAT_REMEDY)


def _table_legend(path: Path) -> Legend:
    """The class_dict.csv of CamVid and of DeepGlobe's land cover data."""
    table = list(csv.reader(read_lines(path, "legend", _TABLE_REMEDY)))
    heads = [cell.strip().lower() for cell in table[0]] if table else []
    if heads[1:] not in (["r", "g", "b"], ["red", "green", "blue"]):
        raise DataError(f"{path} is not a table of names and colours", remedy=_TABLE_REMEDY)
    rows = [(number, row[0], row[1:]) for number, row in enumerate(table[1:], start=2) if any(row)]
    return _legend_of(path, rows, _TABLE_REMEDY)


def _legend_of(path: Path, rows: Iterable[tuple[int, str, list[str]]], remedy: str) -> Legend:
    """The legend from rows of a line number, a class name, and red, green and blue as text."""
    legend: Legend = {}
    for number, name, cells in rows:
        parts = [part.strip() for part in cells]
        values = [int(part) for part in parts if part.isascii() and part.isdigit()]
        if len(parts) != 3 or len(values) != 3 or max(values) > 255:
            raise DataError(
                f"line {number} of {path} gives '{printable(name)}' no colour of three values up "
                "to 255",
                remedy=remedy,
            )
        colour = values[0] << 16 | values[1] << 8 | values[2]
        if colour in legend:
            raise DataError(
                f"{path} gives '{printable(legend[colour])}' and '{printable(name)}' one colour",
                remedy=remedy,
            )
        legend[colour] = name.strip()
    return legend


# -- what the masks hold ---------------------------------------------------------------------------


def label_counts(masks: Sequence[Surveyed], reading: MaskReading) -> np.ndarray:
    """How many pixels of each mask have each label, int64 [n,256]."""
    plain = MaskReading()
    rows = [
        np.bincount(
            (plain if mask.drawn else reading).labels_of(mask.counts.values),
            weights=mask.counts.pixels,
            minlength=IGNORE + 1,
        )
        for mask in masks
    ]
    return np.stack(rows).astype(np.int64)


def masks_per_class(names: tuple[str, ...], counts: np.ndarray) -> dict[str, int]:
    """How many masks show each class, given the pixels of each label in each mask, int64 [n,256].

    Classes that occur in no mask are listed only if they have real names, not numbers.
    """
    shown, named = (counts > 0).sum(axis=0).tolist(), not are_numbers(names)
    return {name: shown[label] for label, name in enumerate(names) if shown[label] or named}


def unusual(split: str, counts: np.ndarray, classes: tuple[str, ...]) -> Iterator[str]:
    """Remarks on what is allowed but rarely intended: empty masks, and classes that never occur.

    Args:
        split: The name of the split in the remarks; may be empty.
        counts: The pixels of each label in each mask, int64 [n,256].
        classes: The class names in the order of their labels.

    Raises:
        DataError: Every pixel is ignored.
    """
    empty = int((counts[:, :IGNORE].sum(axis=1) == 0).sum())
    if empty == len(counts):
        raise DataError(
            f"every pixel of the {split or 'given'} masks is ignored",
            remedy="check the labels, and whether 255 or --reduce-zero-label hides them; where 255 "
            "is the object, add --mask-values binary",
        )
    if empty:
        yield f"{empty} {split} masks have no pixel that is not ignored"
    never = [name for name, pixels in zip(classes, counts.sum(axis=0), strict=False) if not pixels]
    if never:
        yield f"classes that never occur in {split or 'the masks'}: {quoted(never, 10)}"


def check_two_classes(path: str, reading: MaskReading, counts: np.ndarray) -> None:
    """Check that the training masks show at least two classes.

    Args:
        path: The data's folder, for the error message.
        reading: How the masks are read, with the names of the classes.
        counts: The pixels of each label in each training mask, int64 [n,256].

    Raises:
        DataError: There is a single class, or all pixels that are not ignored are of one class.
    """
    names = reading.classes
    shown = [name for name, pixels in zip(names, counts.sum(axis=0), strict=False) if pixels]
    if not shown:
        return  # `unusual` refuses such masks
    if len(names) < 2:
        raise DataError(
            f"{path} has a single class, {quoted(list(names))}",
            remedy="segmenting takes two: a background and an object, for example",
        )
    if len(shown) == 1:
        raise DataError(
            f"all pixels of {path} to learn from that are not ignored are of one class, "
            f"{quoted(shown)}",
            remedy="if the ignored values are the background, write it into the masks as label 0"
            if counts[:, IGNORE].any()
            else "check that the masks hold the objects; of COCO and LabelMe files only shapes "
            "within the image count, and boxes are none",
        )


def check_same(path: str, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Check that data have the classes of a model, in the same order.

    Args:
        path: The data's folder, for the error message.
        names: The classes of the data; empty if no file names them.
        classes: The classes of the model. Where either side has numbers in place of names, only
            their count is compared.

    Raises:
        DataError: The classes differ; the message names the first difference.
    """
    if not names:
        return  # `check_labels` checks that the masks hold no other labels than the model has
    remedy = "measure on data with the model's classes, or give their list with --class-names"
    if len(names) != len(classes):
        raise DataError(
            f"{path} has {counted(len(names), 'class')}, the model {len(classes)}", remedy=remedy
        )
    if are_numbers(names) or are_numbers(classes):
        return
    for label, (name, own) in enumerate(zip(names, classes, strict=True)):
        if name.strip() != own.strip():  # a published list has "bed "
            raise DataError(
                f"label {label} is '{printable(name)}' in {path}, and '{printable(own)}' in the "
                "model",
                remedy=remedy,
            )


def check_labels(masks: list[Surveyed], counts: np.ndarray, classes: int) -> None:
    """Check that masks hold no label beyond the class list.

    Args:
        masks: The masks, for their names.
        counts: The pixels of each label in each of them, int64 [n,256].
        classes: The number of classes.

    Raises:
        DataError: A mask holds a larger label; the message names file and label.
    """
    beyond = np.argwhere(counts[:, classes:IGNORE])
    if len(beyond):
        index, label = int(beyond[0, 0]), int(beyond[0, 1]) + classes
        raise DataError(
            f"the mask {masks[index].name} holds label {label} on {counts[index, label]} pixels, "
            f"and the {classes} classes end with {classes - 1}",
            remedy="complete the class list, ignore these pixels "
            f"(--ignore-values {label}), or use --reduce-zero-label where classes are counted "
            "from 1",
        )


def numbered(reading: MaskReading, counts: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Class names where no file gives any: background and object for binary masks, else numbers up
    to the largest label, given the pixels of each label in each mask of each split, [n,256]."""
    if reading.values == "binary":
        return BINARY_CLASSES
    largest = np.flatnonzero(sum(part.sum(axis=0) for part in counts.values())[:IGNORE])
    return tuple(str(label) for label in range(largest.max(initial=0) + 1))


def are_numbers(names: tuple[str, ...]) -> bool:
    """Whether classes have numbers in place of names."""
    return all(_NUMBER.fullmatch(name) for name in names)
