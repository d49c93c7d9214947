"""Examines images, and finds what is wrong with them or odd about them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from beit.config.data import AS_RECOGNISED, Reading, check_value_range
from beit.data.account import Account
from beit.data.colours import ValueRange
from beit.data.dataset import Dataset
from beit.data.decode import decode, read_header
from beit.data.file_types import EXTENSIONS, IMAGE_EXTENSIONS
from beit.data.images import BitDepth, bit_depth_of, narrow
from beit.data.listing import short_hash
from beit.data.sources import (
    ImageSource,
    account_of,
    class_names_at,
    evenly,
    images_per_class,
    keys_of,
)
from beit.errors import ConfigError, UnreadableError
from beit.hardware import cores
from beit.terminal import counted, quoted

logger = logging.getLogger(__name__)

UNREADABLE = "unreadable"
KINDS = {
    UNREADABLE: "cannot be read: runs skip and report them",
    "in two parts": "the same file in training and in validation or test: scores come out too high",
    "in two classes": "the same file under different classes: one of them is wrong, or "
    "images have several labels (--multi-label)",
    "duplicate": "the same file again",
    "few in class": "classes with few images for training",
    "class missing": "classes that only some parts have",
    "several images": "animated, or with several pages: the first image is taken",
    "wrong extension": "the content has another format than the extension: the content counts",
    "tiny": "a side of few pixels: it is enlarged",
    "deep": "more than 8 bits for each colour: scaled to 8",
    "narrow": "few of 16 bits are used, so that grey levels are lost: give --value-range",
    "printing colours": "CMYK or LAB: turned into RGB by formula",
    "turned": "stored turned or mirrored (EXIF): set upright",
}
TINY = 32
LARGE = 256
"""The mean and deviation of larger images are taken from a grid of about this side."""
AT_A_TIME = 512

_DEEP = ("I", "F")
_PRINTING = ("CMYK", "YCbCr", "LAB")


class Fault(NamedTuple):
    """One thing that is wrong or odd about an image or a class."""

    kind: str
    """One of `KINDS`."""
    name: str
    """The key of the image, or the name of the class."""
    detail: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was examined, and what was found."""

    data: str
    images: dict[str, int]
    """How many images each part has; undivided data are one part with an empty name."""
    looked_at: int
    """How many of them were read: all, or a sample."""
    classes: dict[str, dict[str, int]]
    """How many images of each class each part has."""
    mean: tuple[float, ...]
    """The mean of each channel as models see it, for values in [0, 1], in which every readable
    image counts the same; empty if there is none."""
    std: tuple[float, ...]
    """Likewise the standard deviation."""
    findings: tuple[Fault, ...]
    account: Account
    """How the data were read, and what is skipped."""

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind, in the order of `KINDS`."""
        numbers = Counter(finding.kind for finding in self.findings)
        return {kind: numbers[kind] for kind in KINDS if numbers[kind]}


def _odd(data: bytes, key: str) -> Iterator[tuple[str, str]]:
    header = read_header(data)
    if header.multi_frame:
        yield "several images", header.format
    extension = PurePosixPath(key).suffix.lower()
    if extension in IMAGE_EXTENSIONS and extension not in EXTENSIONS[header.format]:
        yield "wrong extension", f"it is {header.format}"
    if min(header.height, header.width) < TINY:
        yield "tiny", f"{header.height} x {header.width}"
    if header.mode.startswith(_DEEP):
        yield "deep", header.mode
    if header.mode in _PRINTING:
        yield "printing colours", header.mode
    if header.orientation != 1:
        yield "turned", f"orientation {header.orientation}"


class _Seen(NamedTuple):
    """What was seen of one image."""

    hashed: int | None
    """The hash of its bytes; None if it cannot be read."""
    findings: list[Fault]
    moments: np.ndarray | None = None
    """Mean and mean square of each channel, float64 [2, channels]; None if it cannot be read."""
    depth: BitDepth | None = None


def _moments(pixels: np.ndarray) -> np.ndarray:
    step = max(1, max(pixels.shape[:2]) // LARGE)
    values = pixels[::step, ::step].reshape(-1, pixels.shape[2]) / 255
    return np.stack([values.mean(axis=0), np.square(values).mean(axis=0)])


def _look(source: ImageSource, index: int, channels: int, value_range: ValueRange | None) -> _Seen:
    key = source.key(index)
    try:
        data = source.read(index).data
        moments = _moments(decode(data, channels=channels, value_range=value_range))
        findings = [Fault(kind, key, detail) for kind, detail in _odd(data, key)]
    except UnreadableError as error:
        return _Seen(None, [Fault(UNREADABLE, key, error.reason)])
    return _Seen(short_hash(data), findings, moments, None if value_range else bit_depth_of(data))


def _look_through(
    source: ImageSource, channels: int, value_range: ValueRange | None
) -> Iterator[_Seen]:
    """Examine every image by several threads, a bounded number at a time."""
    with ThreadPoolExecutor(cores()) as threads:
        for start in range(0, len(source), AT_A_TIME):
            indices = range(start, min(start + AT_A_TIME, len(source)))
            yield from threads.map(lambda at: _look(source, at, channels, value_range), indices)
            if start % (20 * AT_A_TIME) == 0 and start:
                logger.info("%d of %d images looked at", start, len(source))


def _copies(
    parts: Mapping[str, ImageSource], hashes: np.ndarray, readable: np.ndarray
) -> Iterator[Fault]:
    """Images with the same bytes, in the same part or in two. The images are those of all parts,
    one part after the other; `hashes` is uint64 [n], `readable` bool [n]."""
    names, starts = list(parts), np.cumsum([0, *map(len, parts.values())])

    def who(place: int) -> tuple[str, str, str | None]:
        at = int(np.searchsorted(starts, place, side="right")) - 1
        source, index = parts[names[at]], int(place - starts[at])
        label = None if source.targets is None else " + ".join(class_names_at(source, index))
        return names[at], source.key(index), label

    places = np.flatnonzero(readable)
    order = places[np.argsort(hashes[places], kind="stable")]
    changes = np.flatnonzero(np.diff(hashes[order])) + 1
    for group in np.split(order, changes):
        if len(group) < 2:
            continue
        first_part, first_key, first_label = who(int(group[0]))
        for place in group[1:]:
            part, key, label = who(int(place))
            detail = f"the same as {first_key}"
            if part != first_part:
                yield Fault("in two parts", key, f"{detail} ({first_part})")
            if label != first_label and None not in (label, first_label):
                yield Fault("in two classes", key, f"{detail} ({first_label})")
            if part == first_part and label == first_label:
                yield Fault("duplicate", key, detail)


def _class_findings(
    parts: Mapping[str, ImageSource], counts: dict[str, dict[str, int]], few: int
) -> Iterator[Fault]:
    training = "train" if "train" in parts else next(iter(parts))
    labelled = [part for part, source in parts.items() if source.targets is not None]
    for name, numbers in counts.items():
        missing = [part for part in labelled if not numbers.get(part)]
        if missing:
            yield Fault("class missing", name, f"none in {quoted(missing)}")
        if 0 < numbers.get(training, 0) < few:
            yield Fault("few in class", name, f"{counted(numbers[training], 'image')}")


def check(
    data: str,
    *,
    parts: Mapping[str, ImageSource] | None = None,
    channels: int = 3,
    few: int = 10,
    sample: int | None = None,
    reading: Reading = AS_RECOGNISED,
    value_range: ValueRange | None = None,
) -> Checked:
    """Read every image of data in any form, and find images that are unreadable, duplicates or odd.

    Files count as the same if their bytes have the same hash (BLAKE2b, 64 bits).

    Args:
        data: Where the images are.
        parts: Their splits, if they are open already.
        channels: The number of channels to which each image is decoded.
        few: Classes with fewer images for training are reported.
        sample: Read about this many images, spread evenly over every part; by default all. Classes
            are always counted in full.
        reading: Options for data that can be read in several ways.
        value_range: How values of more than 8 bits are scaled to 8.

    Raises:
        DataError: There are no images, or the layout can be read in two ways.
        ConfigError: A number makes no sense.
    """
    if channels < 1 or few < 0:
        raise ConfigError(
            f"channels is {channels}, few is {few}", remedy="use 1 or more channels, 0 or more few"
        )
    check_value_range(value_range)
    parts = Dataset(data, reading).splits() if parts is None else parts
    fraction = 1.0 if sample is None else sample / max(sum(map(len, parts.values())), 1)
    read = {
        part: evenly(source, max(1, math.ceil(fraction * len(source))))
        for part, source in parts.items()
    }
    total = sum(map(len, read.values()))
    hashes, readable = np.zeros(total, np.uint64), np.zeros(total, np.bool_)
    findings: list[Fault] = []
    depths: dict[str, BitDepth] = {}
    moments = np.zeros((2, channels))
    keys = (key for source in read.values() for key in keys_of(source))
    looked = (seen for one in read.values() for seen in _look_through(one, channels, value_range))
    for place, (key, seen) in enumerate(zip(keys, looked, strict=True)):
        findings += seen.findings
        if seen.hashed is not None:
            hashes[place], readable[place] = seen.hashed, True
        if seen.moments is not None:
            moments += seen.moments
        if seen.depth is not None:
            depths[key] = seen.depth
    if narrow(depths.values()) is not None:
        findings += [Fault("narrow", key, str(depth)) for key, depth in depths.items()]
    findings += _copies(read, hashes, readable)
    classes: dict[str, dict[str, int]] = {}
    for part, source in parts.items():
        for name, number in images_per_class(source).items():
            classes.setdefault(name, {})[part] = number
    findings += _class_findings(parts, classes, few)
    account = next(iter(parts.values())).account
    if {*account.images} != {*parts}:  # else it covers all parts, and has classes from masks
        account = account_of(data, parts)
    mean, square = moments / max(readable.sum(), 1)
    std = np.sqrt((square - mean**2).clip(0))
    return Checked(
        data=data,
        account=account,
        images={part: len(source) for part, source in parts.items()},
        looked_at=total,
        classes=classes,
        mean=tuple(mean.tolist()) if readable.any() else (),
        std=tuple(std.tolist()) if readable.any() else (),
        findings=tuple(findings),
    )
