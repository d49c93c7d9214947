"""Looks through images for all that is wrong with them or odd about them."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from beit.config.data import AS_RECOGNISED, Reading, check_value_range
from beit.data.account import Account
from beit.data.bit_depth import BitDepth, bit_depth_of, narrow
from beit.data.dataset import open_parts
from beit.data.decode import decode, read_header
from beit.data.file_types import EXTENSIONS, IMAGE_EXTENSIONS
from beit.data.listing import quoted
from beit.data.name_array import short_hash
from beit.data.pixel_types import UnreadableError, ValueRange
from beit.data.sources import ImageSource, account_of, class_names_at, evenly, images_per_class
from beit.errors import ConfigError, DataError
from beit.hardware import cores
from beit.terminal import TextTable, print_tables, printable

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
    "wrong extension": "the content is another format than the name says: the content counts",
    "tiny": "a side of few pixels: it is enlarged",
    "deep": "more than 8 bits for each colour: scaled to 8",
    "narrow": "few of 16 bits are used, so that grey levels are lost: give --value-range",
    "printing colours": "CMYK or LAB: turned into RGB by formula",
    "turned": "stored turned or mirrored (EXIF): set upright",
}
TINY = 32
AT_A_TIME = 512

_DEEP = ("I", "F")
_PRINTING = ("CMYK", "YCbCr", "LAB")


class Finding(NamedTuple):
    """One thing that is wrong or odd."""

    kind: str
    """One of `KINDS`."""
    name: str
    """The key of the image, or the name of the class."""
    detail: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was looked through, and what was found."""

    data: str
    images: dict[str, int]
    """How many each part has; data that are not divided are the part ``."""
    looked_at: int
    """How many of them were read: all, or a sample."""
    classes: dict[str, dict[str, int]]
    """How many images of each class each part has."""
    findings: tuple[Finding, ...]
    account: Account
    """What was understood of the data, and what is skipped."""

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


class _Decoding(NamedTuple):
    """As what the images are decoded."""

    channels: int
    value_range: ValueRange | None


class _Seen(NamedTuple):
    hashed: int
    findings: list[Finding]
    depth: BitDepth | None = None


def _look(source: ImageSource, index: int, decoding: _Decoding) -> _Seen:
    key = source.key(index)
    try:
        data = source.read(index).data
    except UnreadableError as error:
        return _Seen(index, [Finding(UNREADABLE, key, error.reason)])
    try:
        decode(data, channels=decoding.channels, value_range=decoding.value_range)
        findings = [Finding(kind, key, detail) for kind, detail in _odd(data, key)]
    except UnreadableError as error:
        findings = [Finding(UNREADABLE, key, error.reason)]
        return _Seen(short_hash(data), findings)
    depth = None if decoding.value_range else bit_depth_of(data)
    return _Seen(short_hash(data), findings, depth)


def _look_through(
    source: ImageSource, decoding: _Decoding, findings: list[Finding], depths: dict[str, BitDepth]
) -> tuple[np.ndarray, np.ndarray]:
    """The hash of every image, uint64 [n], and whether it could be read at all."""
    hashes, there = np.zeros(len(source), np.uint64), np.ones(len(source), bool)
    with ThreadPoolExecutor(cores()) as threads:
        for start in range(0, len(source), AT_A_TIME):
            indices = range(start, min(start + AT_A_TIME, len(source)))
            for index, seen in zip(
                indices, threads.map(lambda one: _look(source, one, decoding), indices), strict=True
            ):
                hashes[index] = seen.hashed
                there[index] = not any(one.kind == UNREADABLE for one in seen.findings)
                findings.extend(seen.findings)
                if seen.depth is not None:
                    depths[source.key(index)] = seen.depth
            if start % (20 * AT_A_TIME) == 0 and start:
                logger.info("%d of %d images looked at", start, len(source))
    return hashes, there


class _Copies:
    """Images with the same bytes, over all parts."""

    def __init__(self, parts: Mapping[str, ImageSource], hashes: list[np.ndarray]) -> None:
        self._sources = list(parts.values())
        self._names = list(parts)
        self._starts = np.cumsum([0, *map(len, hashes)])
        self._hashes = np.concatenate(hashes)

    def groups(self, there: np.ndarray) -> Iterator[np.ndarray]:
        """Places of readable images that have the same hash, two or more."""
        places = np.flatnonzero(there)
        order = places[np.argsort(self._hashes[places], kind="stable")]
        changes = np.flatnonzero(np.diff(self._hashes[order])) + 1
        return (group for group in np.split(order, changes) if len(group) > 1)

    def _who(self, place: int) -> tuple[str, str, str | None]:
        part = int(np.searchsorted(self._starts, place, side="right")) - 1
        source, index = self._sources[part], int(place - self._starts[part])
        label = None if source.targets is None else " + ".join(class_names_at(source, index))
        return self._names[part], source.key(index), label

    def findings(self, there: np.ndarray) -> Iterator[Finding]:
        for group in self.groups(there):
            first_part, first_key, first_label = self._who(int(group[0]))
            for place in group[1:]:
                part, key, label = self._who(int(place))
                detail = f"the same as {first_key}"
                if part != first_part:
                    yield Finding("in two parts", key, f"{detail} ({first_part})")
                if label != first_label and None not in (label, first_label):
                    yield Finding("in two classes", key, f"{detail} ({first_label})")
                if part == first_part and label == first_label:
                    yield Finding("duplicate", key, detail)


def _class_counts(parts: Mapping[str, ImageSource]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for part, source in parts.items():
        if source.targets is not None:
            for name, number in images_per_class(source).items():
                counts.setdefault(name, {})[part] = number
    return counts


def _class_findings(
    parts: Mapping[str, ImageSource], counts: dict[str, dict[str, int]], few: int
) -> Iterator[Finding]:
    training = "train" if "train" in parts else next(iter(parts))
    labelled = [part for part, source in parts.items() if source.targets is not None]
    for name, numbers in counts.items():
        missing = [part for part in labelled if not numbers.get(part)]
        if missing:
            yield Finding("class missing", name, f"none in {quoted(missing)}")
        if 0 < numbers.get(training, 0) < few:
            yield Finding("few in class", name, f"{numbers[training]} images")


def _sample(parts: Mapping[str, ImageSource], sample: int) -> dict[str, ImageSource]:
    """Of each part as large a share as of all."""
    share = sample / max(sum(map(len, parts.values())), 1)
    return {
        part: evenly(source, max(1, math.ceil(share * len(source))))
        for part, source in parts.items()
    }


def _must_make_sense(channels: int, few: int, value_range: ValueRange | None) -> None:
    if channels < 1 or few < 0:
        raise ConfigError(
            f"channels is {channels}, few is {few}", remedy="use 1 or more channels, 0 or more few"
        )
    check_value_range(value_range)


def check(
    data: str,
    *,
    channels: int = 3,
    few: int = 10,
    sample: int | None = None,
    reading: Reading = AS_RECOGNISED,
    value_range: ValueRange | None = None,
) -> Checked:
    """Read every image of data in any form, and find what is unreadable, there twice or odd.

    `reading`: what settles data that can be read in two ways. Errors: DataError if there are no
    data, or for a layout with two readings; as `check_parts`.
    """
    _must_make_sense(channels, few, value_range)
    parts = open_parts(data, reading)
    return check_parts(
        data, parts, channels=channels, few=few, sample=sample, value_range=value_range
    )


def check_parts(
    data: str,
    parts: Mapping[str, ImageSource],
    *,
    channels: int = 3,
    few: int = 10,
    sample: int | None = None,
    value_range: ValueRange | None = None,
) -> Checked:
    """`check` of data that are open already.

    `sample`: read about so many, spread evenly over every part; classes are counted in full.

    Files count as the same if their bytes have the same hash (BLAKE2b, 64 bits). `few`: classes
    with fewer images for training are named. Errors: ConfigError for numbers without sense.
    """
    _must_make_sense(channels, few, value_range)
    decoding, depths = _Decoding(channels, value_range), dict[str, BitDepth]()
    findings: list[Finding] = []
    read = parts if sample is None else _sample(parts, sample)
    looked = [_look_through(source, decoding, findings, depths) for source in read.values()]
    if narrow(depths.values()) is not None:
        findings.extend(Finding("narrow", key, str(depth)) for key, depth in depths.items())
    copies = _Copies(read, [hashes for hashes, _ in looked])
    findings.extend(copies.findings(np.concatenate([there for _, there in looked])))
    classes = _class_counts(parts)
    findings.extend(_class_findings(parts, classes, few))
    return Checked(
        data=data,
        account=account_of(data, parts),
        images={part: len(source) for part, source in parts.items()},
        looked_at=sum(map(len, read.values())),
        classes=classes,
        findings=tuple(findings),
    )


def print_json(found: Checked) -> None:
    """Everything, as one JSON object."""
    content = asdict(found) | {"counts": found.counts}
    content["findings"] = [finding._asdict() for finding in found.findings]
    print(json.dumps(content, indent=1))


def print_table(found: Checked) -> None:
    """A table for people, with examples; JSON has all."""
    for line in found.account.lines():
        print(line)
    if not found.findings:
        skipped = sum(one.count for one in found.account.skipped)
        print(
            f"nothing wrong or odd was found in the images that are read; {skipped:,} skipped"
            if skipped
            else "nothing wrong or odd was found"
        )
        return
    table = TextTable("found", "number", "what it means", "examples")
    for kind, number in found.counts.items():
        examples = [
            printable(f"{one.name}: {one.detail}") for one in found.findings if one.kind == kind
        ]
        table.add_row(kind, f"{number:,}", KINDS[kind], "\n".join(examples[:3]))
    print_tables(table)


def must_be_readable(found: Checked) -> None:
    """DataError, which names some, if an image cannot be read."""
    lost = [finding.name for finding in found.findings if finding.kind == UNREADABLE]
    if lost:
        everything = sum(found.images.values())
        raise DataError(
            f"{len(lost)} of {everything} images cannot be read: {quoted(lost)}",
            remedy="repair or remove these files, or read them as is said of each",
        )
