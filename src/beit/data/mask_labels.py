"""What the values of masks mean: which are classes, which are ignored, and what is refused.

One decision for all masks of a data set, after each was read once: 255 is ignored where other
labels are there, and is the object where 0 is the only other value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from beit.config.segment_run import MaskConfig
from beit.data.label_maps import IGNORE, LabelMap
from beit.data.legends import Legend
from beit.data.listing import quoted
from beit.data.mask_files import ValueCounts, written
from beit.data.pixel_types import UnreadableError
from beit.errors import DataError

BINARY_CLASSES = ("background", "object")
FULL = (255.0, 65535.0)
"""The white of 8 and of 16 bits."""
MOST_IGNORED = 6
LARGE_STEP = 8
"""Between values of labels that were spread out to be seen."""
SMOOTHED_VALUES = 16
"""So many values between black and white, on few pixels, come from smoothed edges."""
SMOOTHED_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True)
class MaskReading:
    """What the values of masks mean; made by `decide`, or as a config says."""

    values: Literal["labels", "binary"] = "labels"
    ignored: tuple[float, ...] = ()
    """Beside 255, of labels."""
    reduce_zero_label: bool = False
    legend: Legend | None = None
    """With it values are colours."""
    classes: tuple[str, ...] = ()
    """In the order of their labels; what a legend needs."""
    _tables: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def labels_of(self, values: np.ndarray) -> np.ndarray:
        """The label of each value, int16 [k]; -1 where a value cannot be one."""
        if self.legend is not None:
            ids = {name: label for label, name in enumerate(self.classes)}
            known = {
                colour: IGNORE if name is None else ids[name]
                for colour, name in self.legend.items()
            }
            return np.array([known.get(int(value), -1) for value in values], np.int16)
        numbers = values.astype(np.float64)
        found = np.full(numbers.shape, -1, np.int16)
        whole = (numbers >= 0) & (numbers == np.floor(numbers))  # never for NaN
        if self.values == "binary":
            found[whole] = numbers[whole] > 0
        else:
            fits = whole & (numbers <= IGNORE)
            found[fits] = numbers[fits]
        if self.reduce_zero_label:
            reduced = np.where(found == 0, IGNORE, found - 1)
            found = np.where((found < 0) | (found == IGNORE), found, reduced).astype(np.int16)
        for value in self.ignored:
            found[_same(numbers, value)] = IGNORE
        return found

    def __call__(self, values: np.ndarray) -> LabelMap:
        """The labels of a mask [H,W], uint8. Errors: UnreadableError for values that are none."""
        if self.legend is not None:
            known = np.array(sorted(self.legend), np.int64)
            places = np.searchsorted(known, values).clip(max=len(known) - 1)
            labels: np.ndarray = np.where(
                known[places] == values, self.labels_of(known)[places], np.int16(-1)
            )
        elif values.dtype in (np.uint8, np.uint16):
            size = np.iinfo(values.dtype).max + 1
            if size not in self._tables:
                self._tables[size] = self.labels_of(np.arange(size))
            labels = self._tables[size][values]
        else:
            found, places = np.unique(values, return_inverse=True)
            labels = self.labels_of(found)[places.reshape(values.shape)]
        if labels.min() < 0:
            strange = values[labels < 0]
            example = float(strange[0])
            shown = written(example) if self.legend is None else f"#{int(example):06x}"
            raise UnreadableError(
                f"{strange.size} of its pixels hold {shown}, which is no label: it has changed"
            )
        result: LabelMap = labels.astype(np.uint8)
        return result

    def refusal(self, value: float) -> str:
        """What masks with a value that is no label have, for a message."""
        if self.legend is not None:
            return f"masks have colours that are not in the legend, such as #{int(value):06x}"
        return f"masks have the value {written(value)}"


def _same(values: np.ndarray, value: float) -> np.ndarray:
    """Where values are this one, in the digits of float32: masks may be stored so."""
    found: np.ndarray = np.isclose(values, value, rtol=1e-6, atol=0, equal_nan=True)
    return found


class Surveyed(NamedTuple):
    """What one mask holds."""

    name: str
    counts: ValueCounts
    nodata: float | None


class Values:
    """What all masks of a data set hold together."""

    def __init__(self, masks: Sequence[Surveyed]) -> None:
        self.masks = masks
        self.pixels: dict[float, int] = {}
        self.first: dict[float, str] = {}
        self.met_in: dict[float, int] = {}
        """How many masks hold a value."""
        self.nodata: dict[float, int] = {}
        for mask in masks:
            for value, pixels in zip(mask.counts.values.tolist(), mask.counts.pixels, strict=True):
                key = math.nan if math.isnan(value) else value  # one NaN, that is found again
                self.pixels[key] = self.pixels.get(key, 0) + int(pixels)
                self.first.setdefault(key, mask.name)
                self.met_in[key] = self.met_in.get(key, 0) + 1
            if mask.nodata is not None:
                key = math.nan if math.isnan(mask.nodata) else mask.nodata
                self.nodata[key] = self.nodata.get(key, 0) + 1

    def without(self, ignored: Sequence[float]) -> set[float]:
        """The different values, but for those that are ignored."""
        values = np.array(sorted(self.pixels), np.float64)
        for value in ignored:
            values = values[~_same(values, value)]
        return set(values.tolist())


class Decision(NamedTuple):
    """How all masks are read, and what is to be said of it."""

    reading: MaskReading
    notes: tuple[str, ...]


def given_values(config: MaskConfig) -> tuple[float, ...]:
    """The values that the config ignores beside 255."""
    return tuple(float(value) for value in config.ignore_values if value != "none")


def decide(
    values: Values, config: MaskConfig, classes: tuple[str, ...], legend: Legend | None, path: str
) -> Decision:
    """What the values of all masks mean; `classes` may be empty where only the masks can tell.

    Errors: DataError where they cannot be labels, or two readings are plausible.
    """
    reduce = config.reduce_zero_label or config.layout == "ade20k"
    if legend is not None:
        reading = MaskReading(legend=legend, classes=classes, reduce_zero_label=reduce)
        _refuse_strange(values, reading)
        return Decision(reading, ())
    ignored, notes = _with_nodata(values, config, path)
    seen = values.without(ignored)
    kind, more = _kind(values, seen, config, classes, path)
    reading = MaskReading(values=kind, ignored=ignored, reduce_zero_label=reduce, classes=classes)
    _refuse_strange(values, reading)
    if kind == "labels" and IGNORE in seen and len(seen) > 1:
        more = [*more, "255 is ignored"]
    return Decision(reading, (*notes, *more))


def _with_nodata(
    values: Values, config: MaskConfig, path: str
) -> tuple[tuple[float, ...], list[str]]:
    """The ignored values, with those that files themselves call nodata.

    A nodata value that could be a label is one of two things.
    """
    given = given_values(config)
    if config.ignore_values:
        return given, [f"values {', '.join(config.ignore_values)} are ignored (--ignore-values)"]
    found, notes = list(given), list[str]()
    for value, masks in values.nodata.items():
        if not _met(values, value) or value == IGNORE:
            continue
        shown = written(value)
        if 0 <= value < IGNORE and value == math.floor(value):
            raise DataError(
                f"{masks} masks of {path} call {shown} nodata (GDAL), and it may be the label of a "
                "class, too",
                remedy=f"say which: --ignore-values {shown} ignores it, --ignore-values none makes "
                "it a label",
            )
        found.append(value)
        notes.append(f"{shown} is ignored: {masks} masks call it nodata (GDAL)")
    return tuple(found), notes


def _met(values: Values, value: float) -> bool:
    return bool(_same(np.array(list(values.pixels), np.float64), value).any())


def _kind(
    values: Values, seen: set[float], config: MaskConfig, classes: tuple[str, ...], path: str
) -> tuple[Literal["labels", "binary"], list[str]]:
    """Whether values are labels, or 0 is background and all else the object."""
    reduce = config.reduce_zero_label or config.layout == "ade20k"
    if config.mask_values == "binary" and reduce:
        raise DataError(
            "the masks are binary by --mask-values, and label 0 is ignored by the layout or "
            "--reduce-zero-label",
            remedy="use one of the two",
        )
    if config.mask_values == "binary":
        others = [written(value) for value in sorted(seen - {0})[:5]]
        objects = f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} the object"
        return "binary", [f"0 is background, {objects if others else 'and no mask has an object'}"]
    if config.mask_values == "labels" or reduce:
        return "labels", []
    largest = max(seen, default=0)
    two = len(seen) == 2 and 0 in seen
    if two and largest in FULL and len(classes) in (0, 2):
        names = classes or BINARY_CLASSES
        shown = written(largest)
        return "binary", [
            f"the masks hold 0 and {shown} only: 0 is {names[0]}, {shown} is {names[1]}"
        ]
    first = f"--mask-values labels: they are labels{', and 255 is ignored' * (255 in seen)}"
    second = "--mask-values binary: 0 is background and all else the object"
    if two and largest > 1 and largest >= len(classes):
        listed = f", and there are {len(classes)} classes" if classes else ""
        raise _two_readings(f"the masks of {path} hold 0 and {written(largest)} only{listed}",
                            first, second)  # fmt: skip
    if _mixed(values, seen) and len(classes) in (0, 2):
        raise _two_readings(
            f"some masks of {path} hold 0 and 1, others 0 and 255, and none 1 and 255",
            first,
            second,
        )
    if not classes and _smoothed(values, seen):
        raise _two_readings(
            f"the masks of {path} hold {len(seen)} values from 0 to 255, nearly all pixels 0 and "
            "255: they look like binary masks that were smoothed, resized or once JPEG",
            first + " (give their names in classes.txt)", second)  # fmt: skip
    if not classes and _spread_out(seen):
        grey = int(min(seen - {0}))
        raise _two_readings(
            f"the masks of {path} hold {', '.join(map(written, sorted(seen)))} only, as if few "
            "labels were spread over the grey levels to be seen",
            first, "or name each value in legend.json beside the folders, such as "
            f'{{"#{grey:02x}{grey:02x}{grey:02x}": "roof"}}')  # fmt: skip
    return "labels", []


def _two_readings(problem: str, first: str, second: str) -> DataError:
    return DataError(
        f"{problem}; this can be read in two ways", remedy=f"say which: {first}; {second}"
    )


def _mixed(values: Values, seen: set[float]) -> bool:
    """Whether the object seems to be 1 in some masks and 255 in others, as where some files were
    shrunk to one bit."""
    if seen - {0} != {1, 255}:
        return False
    return not any({1.0, 255.0} <= set(mask.counts.values.tolist()) for mask in values.masks)


def _smoothed(values: Values, seen: set[float]) -> bool:
    between = [value for value in seen if 0 < value < IGNORE]
    if not {0, 255} <= seen or len(between) < SMOOTHED_VALUES:
        return False
    pixels = sum(values.pixels[value] for value in between)
    return pixels < SMOOTHED_FRACTION * sum(values.pixels.values())


def _spread_out(seen: set[float]) -> bool:
    """Whether values are multiples of one large step, such as 0, 85, 170 and 255 of 4 labels."""
    above = sorted(seen - {0})
    if len(above) < 2 or above[0] < LARGE_STEP or above[-1] > IGNORE:
        return False
    step = above[-1] / round(above[-1] / above[0])
    return all(abs(value - step * round(value / step)) <= 1 for value in above)


def _refuse_strange(values: Values, reading: MaskReading) -> None:
    """DataError for values that cannot be labels, naming a file, all of them, and what to do."""
    found = list(values.pixels)
    labels = reading.labels_of(np.array(found, np.float64))
    strange = [value for value, label in zip(found, labels, strict=True) if label < 0]
    if not strange:
        return
    value = strange[0]
    problem = (
        f"{values.pixels[value]} pixels in {values.met_in[value]} of {len(values.masks)} "
        f"{reading.refusal(value)}: first in {values.first[value]}"
    )
    if reading.legend is not None:
        raise DataError(
            problem,
            remedy="complete the legend; or, where the masks hold labels and the legend only names "
            "them, add --mask-values labels",
        )
    if len(strange) > MOST_IGNORED:  # measurements or probabilities, and no mark of missing data
        raise DataError(problem, remedy=_advice(strange))
    shown = " ".join(map(written, strange))
    ignore = f"where these stand for no data, add --ignore-values {shown}"
    raise DataError(problem, remedy=f"{_advice(strange)}; {ignore}")


def _advice(strange: list[float]) -> str:
    if any(0 < value < 1 for value in strange):
        return "labels are whole numbers from 0: turn probabilities into labels by a threshold"
    if max(strange) > IGNORE:
        return (
            f"{IGNORE - 1} is the largest label: numbers of instances are no classes, write one "
            "label for each class"
        )
    return f"labels are whole numbers from 0 to {IGNORE - 1}"


def label_counts(counts: ValueCounts, reading: MaskReading) -> np.ndarray:
    """How many pixels of a mask have each label, int64 [256]."""
    labels = reading.labels_of(counts.values)
    return np.bincount(labels, weights=counts.pixels, minlength=IGNORE + 1).astype(np.int64)


def labels_shown(names: Sequence[str], counts: np.ndarray, *, numbers: bool) -> Mapping[str, int]:
    """How many masks show each class, of counts [n,256]; of numbered classes only those shown."""
    shown = (counts > 0).sum(axis=0).tolist()
    return {name: shown[label] for label, name in enumerate(names) if shown[label] or not numbers}


def rarely_meant(split: str, counts: np.ndarray, classes: tuple[str, ...]) -> Iterator[str]:
    """What is allowed but rarely meant, of counts [n,256].

    Errors: DataError if no pixel is left that is not ignored.
    """
    empty = int((counts[:, :IGNORE].sum(axis=1) == 0).sum())
    if empty == len(counts):
        raise DataError(
            f"every pixel of the {split} masks is ignored",
            remedy="check the labels, and whether 255 or --reduce-zero-label hides them; where 255 "
            "is the object, add --mask-values binary",
        )
    if empty:
        yield f"{empty} {split} masks have no pixel that is not ignored"
    never = [name for name, pixels in zip(classes, counts.sum(axis=0), strict=False) if not pixels]
    if never:
        yield f"classes that never occur in {split}: {quoted(never, 10)}"
