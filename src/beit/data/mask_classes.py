"""Which classes masks have: what lists and legends beside them call their labels and colours
(legend.json, CVAT's labelmap.txt, the class_dict.csv of CamVid), and whether they hold them.
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
"""Class names, one per line; and Roboflow's table of values and names."""
_JSON_REMEDY = 'write an object such as {"#ff0000": "roof", "#000000": null}'
_TABLE_REMEDY = "write the heading 'name,r,g,b', then lines such as 'Building,128,0,0'"
_NO_CLASS = ("void", "unlabeled", "unlabelled", "unknown", "ignore", "ignored")
"""What pixels are called that were not labelled, in tables that cannot say it otherwise."""
_CVAT_REMEDY = "write lines such as 'roof:250,50,20::', after '# label:color_rgb:parts:actions'"
_NUMBER = re.compile(r"(class )?\d+")
_NUMBERED = re.compile(r"(\d+)(?:\s*[:,;=]\s*|\s+)(\S.*)")
"""A line of a list with the value before the name: `0: background`."""


def read_lines(path: Path, what: str, remedy: str) -> list[str]:
    """The lines of a small text file, without their ends. Errors: DataError."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"the {what} {path} cannot be read: {error}", remedy=remedy) from error


def read_names(path: Path) -> tuple[str, ...]:
    """The lines of a list that are not empty. Errors: DataError."""
    found = tuple(filter(None, map(str.strip, read_lines(path, "list", "check it"))))
    if not found:
        raise DataError(f"the list {path} is empty", remedy="write one name per line")
    return found


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of their labels: a line each, which may all begin with their value;
    or a table of values and names."""
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
    """The file that an option names, or the usual one beside the folders.

    Errors: DataError where several of the usual ones are there.
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
    """The legend of masks in colours: a JSON object of colours ("#rrggbb") and class names or null,
    CVAT's lines `label:r,g,b:parts:actions`, or a table with the columns name, r, g, b.

    Errors: DataError for a file that is not of that form.
    """
    read = {".json": _json_legend, ".csv": _table_legend}.get(path.suffix.lower(), _cvat_legend)
    legend = read(path)
    if not legend:
        raise DataError(f"the legend {path} holds no colours", remedy="write one for each class")
    return legend


def without_unlabelled(legend: Legend) -> tuple[Legend, list[str]]:
    """The same with void, unlabelled and unknown ignored; and which of them there are."""
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
    """Source: CVAT's formats "CamVid" and "Segmentation mask", whose first line is a comment."""
    rows = []
    for number, line in enumerate(read_lines(path, "legend", _CVAT_REMEDY), start=1):
        if line.strip() and not line.startswith("#"):
            name, _, rest = line.partition(":")
            rows.append((number, name, rest.partition(":")[0].split(",")))
    return _legend_of(path, rows, _CVAT_REMEDY)


def _table_legend(path: Path) -> Legend:
    """Source: the class_dict.csv of CamVid and of DeepGlobe's land cover."""
    table = list(csv.reader(read_lines(path, "legend", _TABLE_REMEDY)))
    heads = [cell.strip().lower() for cell in table[0]] if table else []
    if heads[1:] not in (["r", "g", "b"], ["red", "green", "blue"]):
        raise DataError(f"{path} is not a table of names and colours", remedy=_TABLE_REMEDY)
    rows = [(number, row[0], row[1:]) for number, row in enumerate(table[1:], start=2) if any(row)]
    return _legend_of(path, rows, _TABLE_REMEDY)


def _legend_of(path: Path, rows: Iterable[tuple[int, str, list[str]]], remedy: str) -> Legend:
    """The legend of lines with a number, a name and the three parts of a colour."""
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
    """How many masks show each class, of counts [n,256]; of numbered classes only those shown."""
    shown, named = (counts > 0).sum(axis=0).tolist(), not are_numbers(names)
    return {name: shown[label] for label, name in enumerate(names) if shown[label] or named}


def unusual(split: str, counts: np.ndarray, classes: tuple[str, ...]) -> Iterator[str]:
    """What is allowed but rarely meant, of counts [n,256].

    Errors: DataError if no pixel is left that is not ignored.
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
    """DataError where there is nothing to tell apart, by the pixels int64 [n,256] of training."""
    names = reading.classes
    shown = [name for name, pixels in zip(names, counts.sum(axis=0), strict=False) if pixels]
    if not shown:
        return  # which `unusual` refuses
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
    """DataError for classes of the data that are not those of the model, in its order."""
    if not names:
        return  # the masks hold the model's labels, or `check_labels` says so
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
    """DataError, naming file and label, for labels beyond the class list."""
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
    """Classes for want of names, by how many pixels of each label the masks of each split have."""
    if reading.values == "binary":
        return BINARY_CLASSES
    largest = np.flatnonzero(sum(part.sum(axis=0) for part in counts.values())[:IGNORE])
    return tuple(str(label) for label in range(largest.max(initial=0) + 1))


def are_numbers(names: tuple[str, ...]) -> bool:
    """Whether classes were given numbers for want of names."""
    return all(_NUMBER.fullmatch(name) for name in names)
