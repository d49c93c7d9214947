"""What colours and labels of masks are called: legend.json, CVAT's labelmap.txt, class lists."""

from __future__ import annotations

import csv
from pathlib import Path

from beit.errors import DataError
from beit.json_object import read_object
from beit.terminal import printable, quoted

Legend = dict[int, str | None]
"""Class names by colour, 0xRRGGBB; None is ignored."""

LEGENDS = ("legend.json", "labelmap.txt")
CLASS_LISTS = ("classes.txt", "_classes.csv")
"""Class names, one per line; and Roboflow's table of values and names."""
_JSON_REMEDY = 'write an object such as {"#ff0000": "roof", "#000000": null}'
_CVAT_REMEDY = "write lines such as 'roof:250,50,20::', after '# label:color_rgb:parts:actions'"


def _lines(path: Path, what: str, remedy: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"the {what} {path} cannot be read: {error}", remedy=remedy) from error


def read_names(path: Path) -> tuple[str, ...]:
    """The lines of a list that are not empty. Errors: DataError."""
    found = tuple(filter(None, map(str.strip, _lines(path, "list", "check it"))))
    if not found:
        raise DataError(f"the list {path} is empty", remedy="write one name per line")
    return found


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of their labels: a line each, or a table of values and names."""
    if path.suffix.lower() != ".csv":
        return read_names(path)
    rows = [row for row in csv.reader(_lines(path, "list", "check it")) if any(row)]
    named = {row[0].strip(): row[1].strip() for row in rows[1:] if len(row) == 2}
    if len(named) != len(rows) - 1 or list(named) != [str(value) for value in range(len(named))]:
        raise DataError(
            f"{path} is no table of pixel values from 0 and names",
            remedy="write a heading, then lines such as '0, background'",
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
    or CVAT's lines `label:r,g,b:parts:actions`.

    Errors: DataError for a file that is not of that form.
    """
    legend = _json_legend(path) if path.suffix.lower() == ".json" else _cvat_legend(path)
    if not legend:
        raise DataError(f"the legend {path} holds no colours", remedy="write one for each class")
    return legend


def _json_legend(path: Path) -> Legend:
    legend: Legend = {}
    for colour, name in read_object(path, DataError, _JSON_REMEDY).items():
        digits = colour.removeprefix("#")
        if len(digits) != 6 or set(digits.lower()) - set("0123456789abcdef"):
            raise DataError(f"'{printable(colour)}' in {path} is no colour", remedy=_JSON_REMEDY)
        if name is not None and not isinstance(name, str):
            raise DataError(f"the class of '{colour}' in {path} is {name!r}", remedy=_JSON_REMEDY)
        legend[int(digits, 16)] = name
    return legend


def _cvat_legend(path: Path) -> Legend:
    """Source: CVAT's formats "CamVid" and "Segmentation mask", whose first line is a comment."""
    legend: Legend = {}
    for number, line in enumerate(_lines(path, "legend", _CVAT_REMEDY), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        parts = [part.strip() for part in rest.partition(":")[0].split(",")]
        values = [int(part) for part in parts if part.isascii() and part.isdigit()]
        if len(parts) != 3 or len(values) != 3 or max(values) > 255:
            raise DataError(
                f"line {number} of {path} gives '{printable(name)}' no colour of three values up "
                "to 255",
                remedy=_CVAT_REMEDY,
            )
        colour = values[0] << 16 | values[1] << 8 | values[2]
        if colour in legend:
            raise DataError(
                f"{path} gives '{printable(legend[colour])}' and '{printable(name)}' one colour",
                remedy=_CVAT_REMEDY,
            )
        legend[colour] = name.strip()
    return legend
