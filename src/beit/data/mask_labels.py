"""What the values of masks mean: which are classes, which are ignored, and what is refused.

One decision holds for all masks of a data set, and is made after each has been read once: 255 is
ignored where there are other labels, and is the object where 0 is the only other value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np

from beit.config.segment_run import IGNORE, MaskConfig
from beit.data.mask_files import LabelMap, ValueCounts, written
from beit.errors import DataError, UnreadableError
from beit.terminal import counted

Legend = dict[int, str | None]
"""Class names by colour, 0xRRGGBB; None marks a colour that is ignored."""
BINARY_CLASSES = ("background", "object")
WHITE = (255.0, 65535.0)
"""White in masks of 8 and of 16 bits."""
MOST_IGNORED = 6
LARGE_STEP = 8
"""The smallest step between label values that seem to be spread over the grey levels to be seen."""
SMOOTHED_VALUES = 16
"""This many values between black and white, if few pixels have them, come from smoothed edges."""
SMOOTHED_FRACTION = 0.1
MOST_UNNAMED = 64
"""If no list names the classes, more distinct values than this are probably not labels."""
LEAST_INSTANCES = 8
DIFFERENT_COUNTS = 5
"""Values that run from 1 upwards in every mask, but to this many different ends, number objects."""


@dataclass(frozen=True, kw_only=True)
class MaskReading:
    """How the values of masks are read: made by `decide`, or from the config alone."""

    values: Literal["labels", "binary"] = "labels"
    ignored: tuple[float, ...] = ()
    """Values that are ignored besides 255, if values are labels."""
    reduce_zero_label: bool = False
    legend: Legend | None = None
    """If there is one, values are colours."""
    classes: tuple[str, ...] = ()
    """Their names in the order of their labels; empty if only the masks can tell."""
    _tables: dict[int, np.ndarray] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @classmethod
    def configured(
        cls, config: MaskConfig, legend: Legend | None, classes: tuple[str, ...]
    ) -> MaskReading:
        """The reading as far as the config decides it, without a look at the masks.

        Args:
            config: The options for masks.
            legend: What the colours mean; None if the values are labels.
            classes: Their names in the order of their labels; empty if only the masks can tell.
        """
        return cls(
            values="binary" if config.mask_values == "binary" else "labels",
            ignored=tuple(float(value) for value in config.ignore_values if value != "none"),
            reduce_zero_label=config.reduce_zero_label or config.layout == "ade20k",
            legend=legend,
            classes=classes,
        )

    def labels_of(self, values: np.ndarray) -> np.ndarray:
        """The label of each value, int16 [k]; -1 where a value cannot be a label."""
        if self.legend is not None:
            ids: dict[str | None, int] = {name: at for at, name in enumerate(self.classes)}
            ids[None] = IGNORE
            known = {colour: ids[name] for colour, name in self.legend.items()}
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
            found[found == 0] = IGNORE + 1  # the next line turns it into IGNORE
            found[(found > 0) & (found != IGNORE)] -= 1
        for value in self.ignored:
            found[_same(numbers, value)] = IGNORE
        return found

    def __call__(self, values: np.ndarray) -> LabelMap:
        """The labels of a mask [H,W], uint8. Raises UnreadableError for values without a label."""
        if self.legend is not None:
            known = np.array(sorted(self.legend), np.int64)
            places = np.searchsorted(known, values).clip(max=len(known) - 1)
            labels = np.where(known[places] == values, self.labels_of(known)[places], np.int16(-1))
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
            raise UnreadableError(
                f"{strange.size} of its pixels hold {self.written(float(strange[0]))}, which is no "
                "label: it has changed"
            )
        result: LabelMap = labels.astype(np.uint8)
        return result

    def written(self, value: float) -> str:
        """A value of a mask in words: a number, or a colour such as #ff0000."""
        return written(value) if self.legend is None else f"#{int(value):06x}"


def _same(values: np.ndarray, value: float) -> np.ndarray:
    """Where values equal this one to the precision of float32, in which masks may be stored."""
    found: np.ndarray = np.isclose(values, value, rtol=1e-6, atol=0, equal_nan=True)
    return found


class Surveyed(NamedTuple):
    """What one mask holds."""

    name: str
    counts: ValueCounts
    nodata: float | None
    """The value that its file declares as nodata."""
    drawn: bool
    """Whether the values are labels already: of drawn shapes, and of images without an object."""


class Values:
    """What the files of all masks of a data set hold together."""

    def __init__(self, masks: Sequence[Surveyed]) -> None:
        self.masks = [mask for mask in masks if not mask.drawn]
        self.pixels, self.masks_with, self.nodata = (Counter[float]() for _ in range(3))
        self.first_in: dict[float, str] = {}
        for mask in self.masks:
            values = map(_number, mask.counts.values.tolist())
            for value, pixels in zip(values, mask.counts.pixels.tolist(), strict=True):
                self.pixels[value] += pixels
                self.masks_with[value] += 1
                self.first_in.setdefault(value, mask.name)
            if mask.nodata is not None:
                self.nodata[_number(mask.nodata)] += 1

    def without(self, ignored: Sequence[float]) -> set[float]:
        """The distinct values that are not ignored."""
        values = np.array(sorted(self.pixels), np.float64)
        for value in ignored:
            values = values[~_same(values, value)]
        return set(values.tolist())

    def __contains__(self, value: float) -> bool:
        return bool(_same(np.array(list(self.pixels), np.float64), value).any())


def _number(value: float) -> float:
    return math.nan if math.isnan(value) else value  # always the same NaN, so that a dict finds it


class Decision(NamedTuple):
    """How all masks are read, and the notes on it for the account."""

    reading: MaskReading
    notes: list[str]


def decide(values: Values, configured: MaskReading, config: MaskConfig, path: str) -> Decision:
    """Decide what the values of all masks mean.

    Args:
        values: What all masks hold.
        configured: The reading as far as the config decides it.
        config: The options for masks.
        path: The data's folder, for messages.

    Raises:
        DataError: Some values cannot be labels, or two readings are plausible.
    """
    if configured.legend is not None:
        _refuse_strange(values, configured)
        return Decision(configured, [])
    ignored, notes = _with_nodata(values, configured.ignored, config, path)
    seen = values.without(ignored)
    kind, note = _kind(values, seen, configured, config, path)
    reading = replace(configured, values=kind, ignored=ignored)
    _refuse_strange(values, reading)
    if kind == "labels" and IGNORE in seen and len(seen) > 1:
        note = "255 is ignored"
    return Decision(reading, [*notes, note] if note else notes)


def _with_nodata(
    values: Values, given: tuple[float, ...], config: MaskConfig, path: str
) -> tuple[tuple[float, ...], list[str]]:
    """The ignored values, including those that files declare as nodata, and notes on them.

    Raises DataError for a nodata value that could also be a label.
    """
    if config.ignore_values:
        return given, [f"values {', '.join(config.ignore_values)} are ignored (--ignore-values)"]
    found = {
        value: masks
        for value, masks in values.nodata.items()
        if value in values and value != IGNORE
    }
    for value, masks in found.items():
        if 0 <= value < IGNORE and value == math.floor(value):
            shown = written(value)
            raise DataError(
                f"{masks} masks of {path} call {shown} nodata (GDAL), and it may be the label of a "
                "class, too",
                remedy=f"say which: --ignore-values {shown} ignores it, --ignore-values none makes "
                "it a label",
            )
    return (*given, *found), [
        f"{written(value)} is ignored: {masks} masks call it nodata (GDAL)"
        for value, masks in found.items()
    ]


def _kind(
    values: Values, seen: set[float], configured: MaskReading, config: MaskConfig, path: str
) -> tuple[Literal["labels", "binary"], str]:
    """Whether values are labels, or 0 is the background and all else the object; and a note."""
    classes = configured.classes
    if config.mask_values == "binary":
        if configured.reduce_zero_label:
            raise DataError(
                "the masks are binary by --mask-values, and label 0 is ignored by the layout or "
                "--reduce-zero-label",
                remedy="use one of the two",
            )
        others = [written(value) for value in sorted(seen - {0})[:5]]
        objects = f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} the object"
        return "binary", f"0 is background, {objects if others else 'and no mask has an object'}"
    if config.mask_values == "labels" or configured.reduce_zero_label:
        return "labels", ""
    largest = max(seen, default=0)
    if seen == {0, largest} and largest in WHITE and len(classes) in (0, 2):
        (background, name), white = classes or BINARY_CLASSES, written(largest)
        return "binary", (
            f"the masks hold 0 and {white} only: 0 is {background}, {white} is {name}"
        )
    for problem, more, second in _doubts(values, seen, classes, f"masks of {path}"):
        ignores = ", and 255 is ignored" * (IGNORE in seen)
        raise DataError(
            f"{problem}; this can be read in two ways",
            remedy=f"say which: --mask-values labels: they are labels{ignores}{more}; {second}",
        )
    return "labels", ""


def _doubts(
    values: Values, seen: set[float], classes: tuple[str, ...], masks: str
) -> Iterator[tuple[str, str, str]]:
    """Reasons to doubt that values are labels, each as: what the masks hold, what else to do if
    they are labels after all, and the option for the other reading."""
    binary = "--mask-values binary: 0 is background and all else the object"
    above = sorted(seen - {0}, key=lambda value: (math.isnan(value), value))
    if len(above) == 1 < len(seen) and above[0] > 1 and above[0] >= len(classes):
        listed = f", for {counted(len(classes), 'class')}" if classes else ""
        yield f"the {masks} hold 0 and {written(above[0])} only{listed}", "", binary
    # For example, some files were shrunk to one bit.
    together = any({1.0, 255.0} <= {*mask.counts.values.tolist()} for mask in values.masks)
    if above == [1, 255] and not together and len(classes) in (0, 2):
        yield f"some {masks} hold 0 and 1, others 0 and 255, and none 1 and 255", "", binary
    if classes:
        return
    names = " (give their names in classes.txt)"
    between = [value for value in seen if 0 < value < IGNORE]
    few = sum(values.pixels[value] for value in between) < SMOOTHED_FRACTION * values.pixels.total()
    if {0, IGNORE} <= seen and len(between) >= SMOOTHED_VALUES and few:
        yield (
            f"the {masks} hold {len(seen)} values from 0 to 255, nearly all pixels 0 and 255: they "
            "look like binary masks that were smoothed, resized or once JPEG",
            names,
            binary,
        )
    if _count_instances(values):
        yield (
            f"each of the {masks} holds the values from 1 to some number, {written(above[-1])} at "
            "most, as if they were the numbers of its objects",
            names,
            binary,
        )
    elif len(between) > MOST_UNNAMED:
        yield (
            f"the {masks} hold {len(seen)} different values, as photographs, depths and numbers of "
            "objects do",
            names,
            binary,
        )
    if _spread_out(above):
        grey = "#" + f"{int(above[0]):02x}" * 3
        yield (
            f"the {masks} hold {', '.join(map(written, sorted(seen)))} only, as if few labels were "
            "spread over the grey levels to be seen",
            "",
            f'or name each value in legend.json beside the folders, such as {{"{grey}": "roof"}}',
        )


def _count_instances(values: Values) -> bool:
    """Whether every mask holds 1, 2, 3, ... without a gap, and many end at different numbers."""
    above = [mask.counts.values[mask.counts.values > 0] for mask in values.masks]
    counts = [len(one) for one in above if len(one)]
    most = max(counts, default=0) >= LEAST_INSTANCES and len(set(counts)) > len(counts) / 2
    return (most or len(set(counts)) >= DIFFERENT_COUNTS) and all(
        one[-1] == len(one) for one in above if len(one)
    )


def _spread_out(above: list[float]) -> bool:
    """Whether values are multiples of one large step, such as 85, 170 and 255 for 4 labels."""
    if len(above) < 2 or above[0] < LARGE_STEP or not above[-1] <= IGNORE:
        return False
    step = above[-1] / round(above[-1] / above[0])
    return all(abs(value - step * round(value / step)) <= 1 for value in above)


def _refuse_strange(values: Values, reading: MaskReading) -> None:
    """Raises DataError for values that cannot be labels, with an example and what to do."""
    labels = reading.labels_of(np.array(list(values.pixels), np.float64))
    strange = [value for value, label in zip(values.pixels, labels, strict=True) if label < 0]
    if not strange:
        return
    value, more = strange[0], ""
    shown = reading.written(value)
    if reading.legend is not None:
        have = f"colours that are not in the legend, such as {shown}"
        advice = (
            "complete the legend; or, where the masks hold labels and the legend only names them, "
            "add --mask-values labels"
        )
    else:
        have = f"the value {shown}"
        if len(strange) <= MOST_IGNORED:  # more of them are measurements or probabilities
            more = "; where these stand for no data, add --ignore-values "
            more += " ".join(map(written, strange))
        if any(0 < value < 1 for value in strange):
            advice = (
                "labels are whole numbers from 0: turn probabilities into labels by a threshold"
            )
        elif max(strange) > IGNORE:
            advice = (
                f"{IGNORE - 1} is the largest label: numbers of instances are not classes, write "
                "one label for each class"
            )
        else:
            advice = f"labels are whole numbers from 0 to {IGNORE - 1}"
    raise DataError(
        f"{values.pixels[value]} pixels in {values.masks_with[value]} of {len(values.masks)} masks "
        f"have {have}: first in {values.first_in[value]}",
        remedy=advice + more,
    )
