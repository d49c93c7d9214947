"""What classes are called: in lists and legends beside masks, in published sets, by numbers only.

A list (classes.txt, Roboflow's _classes.csv) has them in the order of their labels, a legend
(legend.json, CVAT's labelmap.txt) by their colours.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beit.errors import DataError
from beit.json_object import read_object
from beit.terminal import printable, quoted

if TYPE_CHECKING:
    from timm.data import ImageNetInfo

Legend = dict[int, str | None]
"""Class names by colour, 0xRRGGBB; None is ignored."""
LEGENDS = ("legend.json", "labelmap.txt")
CLASS_LISTS = ("classes.txt", "_classes.csv")
"""Class names, one per line; and Roboflow's table of values and names."""
_JSON_REMEDY = 'write an object such as {"#ff0000": "roof", "#000000": null}'
_CVAT_REMEDY = "write lines such as 'roof:250,50,20::', after '# label:color_rgb:parts:actions'"
IMAGENET = {1000: "imagenet-1k", 21841: "imagenet-22k"}
"""Its sets by their number of classes."""
ALIKE = 0.9
"""Fraction of the names that must be ImageNet's for classes to count as its classes."""
_UNNAMED = re.compile(r"class \d+")
"""What classes are called whose names a file does not give."""
_NUMBER = re.compile(r"(class )?\d+")


def imagenet_classes(count: int) -> ImageNetInfo:
    """WordNet ids and descriptions of the ImageNet of so many classes, a key of `IMAGENET`."""
    from timm.data import ImageNetInfo  # here, as timm takes seconds to import

    return ImageNetInfo(IMAGENET[count])


def wordnet_ids(classes: Sequence[str]) -> tuple[str, ...]:
    """The WordNet ids of classes that are ImageNet's in their order; of others none."""
    if len(classes) not in IMAGENET:
        return ()
    info = imagenet_classes(len(classes))
    pairs = zip(classes, info.label_descriptions(), strict=True)
    alike = sum(name == description for name, description in pairs) > ALIKE * len(classes)
    return tuple(info.label_names()) if alike else ()


def are_unnamed(classes: Sequence[str]) -> bool:
    """Whether these are the classes of a file that does not name them."""
    return all(map(_UNNAMED.fullmatch, classes))


def are_numbers(classes: Sequence[str]) -> bool:
    """Whether classes were given numbers for want of names."""
    return all(map(_NUMBER.fullmatch, classes))


def as_numbers(names: Sequence[str], count: int) -> list[int] | None:
    """The numbers that names stand for, if they are exactly those from 0 to below `count`."""
    numbers = [int(name) for name in names if name.isdecimal()]
    return numbers if len(names) == count and sorted(numbers) == list(range(count)) else None


def spelled_alike(classes: Sequence[str]) -> Iterator[str]:
    """A note on each group of classes that may be meant to be the same."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name.strip().casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            yield f"the classes {quoted(names, 8)} differ in case or blanks only"


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


# The 150 classes of the scene parsing benchmark (MIT; arXiv:1608.05442), each by its first name, as
# mmsegmentation and transformers name them; label 1 is the first.
ADE20K_CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass",
    "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain",
    "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field",
    "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing",
    "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand", "sink",
    "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case",
    "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind",
    "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove", "palm",
    "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus",
    "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth",
    "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister",
    "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain",
    "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool", "barrel", "basket",
    "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank",
    "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen",
    "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan",
    "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass",
    "clock", "flag",
)  # fmt: skip

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
