"""Examines a folder of images: what is wrong with it, and what to do with it first."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from beit.config.data import AS_RECOGNISED, Reading
from beit.data.account import Account
from beit.data.dataset import Dataset
from beit.data.decode import read_header
from beit.data.sources import ImageSource, evenly
from beit.doctor import Finding, Level, judge
from beit.doctor.check import KINDS, UNREADABLE, Checked, check
from beit.errors import BeitError, UnreadableError
from beit.terminal import counted

MOST_HEADERS = 400
FEW_TO_PRETRAIN = 1_000
UNEVEN = 20
"""The ratio of the largest class to the smallest above which rare classes need attention."""
BANDS = " bands"
"""The end of the mode of a file with many bands, which no released model can use."""
FAILING = (UNREADABLE, "in two parts", "in two classes")
CHANGES = {
    UNREADABLE: "repair or remove these files, or follow the advice given for each",
    "in two parts": "keep each image in one part only",
    "in two classes": "decide for one class",
    "duplicate": "remove the copies: they count double",
    "few in class": "collect more, or join classes",
    "class missing": "give each part images of every class",
    "tiny": "remove them, or use a recipe of their size (--size)",
}
HARMLESS = ("turned", "printing colours")


class Headers(NamedTuple):
    """What the headers of some images say."""

    shortest: np.ndarray
    """The shorter side of each image in pixels, int64 [n]."""
    modes: Counter[str]
    """How many images have each kind of pixels, by Pillow's names."""


def read_headers(parts: Mapping[str, ImageSource]) -> Headers:
    """Read the headers of a few images of every part."""
    sides, modes = [], Counter[str]()
    for source in parts.values():
        few = evenly(source, max(1, MOST_HEADERS // len(parts)))
        for index in range(len(few)):
            try:
                header = read_header(few.read(index).data)
            except UnreadableError:
                continue  # reported by the check
            sides.append(min(header.height, header.width))
            modes[header.mode] += 1
    return Headers(np.array(sides, np.int64), modes)


def check_images(
    data: str, *, channels: int, sample: int, size: int, reading: Reading = AS_RECOGNISED
) -> Iterator[Finding]:
    """Examine a sample of images, and recommend how to train on them.

    Args:
        data: Where the images are.
        channels: The number of channels to which images are to be decoded.
        sample: About how many images are read.
        size: The image size of the model in pixels; 0 leaves it to `--time`.
        reading: Options for data that can be read in several ways.
    """
    for one in _examine(data, channels, sample, size, reading):
        yield one._replace(about="images")


def _examine(
    data: str, channels: int, sample: int, size: int, reading: Reading
) -> Iterator[Finding]:
    try:
        parts = Dataset(data, reading).splits()
        found = check(data, parts=parts, channels=channels, sample=sample)
    except BeitError as error:
        yield Finding("fail", "images", error.problem, error.remedy)
        return
    yield from _layout(found.account)
    yield from _faults(found)
    headers = read_headers(parts)
    if not len(headers.shortest):
        return  # no image can be read, as reported above
    training = "train" if "train" in parts else next(iter(parts))
    yield _balance(found, training)
    yield _channels(headers, channels)
    if found.counts.get(UNREADABLE) == found.looked_at:
        return  # images may be readable with another number of channels
    labelled = len(found.classes) > 1 and reading == AS_RECOGNISED
    yield from _advice(data, len(parts[training]), headers, size, channels, labelled=labelled)


def _layout(account: Account) -> Iterator[Finding]:
    """The recognised layout, and what is skipped."""
    first, *lines = [line.strip() for line in account.lines()]
    skipped = [line.removeprefix("skipped: ") for line in lines if line.startswith("skipped")]
    layout = [line for line in lines if not line.startswith("skipped")]
    yield judge("layout", "; ".join([first, *layout]))
    if skipped:
        change = "convert those that are training images; the others are rightly skipped"
        yield judge("skipped", "; ".join(skipped), change)


def _faults(found: Checked) -> Iterator[Finding]:
    every = sum(found.images.values())
    sampled = f"{found.looked_at:,} of {every:,}" if found.looked_at < every else f"all {every:,}"
    yield judge("images", f"{sampled} were examined")
    for kind, number in found.counts.items():
        examples = [one for one in found.findings if one.kind == kind][:2]
        named = "; ".join(f"{one.name}: {one.detail}" for one in examples)
        level: Level = "fail" if kind in FAILING else "ok" if kind in HARMLESS else "warn"
        words = f"{number:,} ({KINDS[kind]}): {named}"
        yield Finding(level, kind, words, CHANGES.get(kind, ""))


def _balance(found: Checked, training: str) -> Finding:
    numbers = {name: counts.get(training, 0) for name, counts in found.classes.items()}
    numbers = {name: number for name, number in numbers.items() if number}
    if len(numbers) < 2:
        words = "none: enough to pre-train; for a classifier put each class into a folder"
        return judge("classes", words)
    most, least = max(numbers, key=numbers.__getitem__), min(numbers, key=numbers.__getitem__)
    words = f"{len(numbers)}, " + (
        f"from {numbers[least]:,} ({least}) to {numbers[most]:,} ({most})"
        if numbers[least] < numbers[most]
        else f"of {counted(numbers[most], 'image')} each"
    )
    change = "accuracy will hide the rare classes: look at the class table of the report"
    return judge("classes", words, change if numbers[most] / numbers[least] > UNEVEN else "")


def _channels(headers: Headers, channels: int) -> Finding:
    """Compare the requested channels with those of the files."""
    modes = headers.modes
    words = ", ".join(
        f"{number} {'of ' if mode.endswith(BANDS) else ''}{mode}"
        for mode, number in modes.most_common(4)
    )
    words = f"read with {channels}; files: {words}"
    grey = sum(number for mode, number in modes.items() if mode in ("1", "L", "I;16", "I"))
    banded = [mode for mode in modes if mode.endswith(BANDS)]
    if banded and f"{channels}{BANDS}" not in banded:
        number = banded[0].partition(" ")[0]
        change = f"these files have {number} bands each: --channels {number}"
        return judge("channels", words, change)
    if channels == 1 and grey < modes.total():
        change = "colours will be turned into grey: use --channels 3 if they matter"
        return judge("channels", words, change)
    change = "all are grey and would be repeated three times: --channels 1 is less work"
    needless = channels == 3 and grey == modes.total()
    return Finding("ok", "channels", words, change if needless else "")


def _advice(
    data: str, number: int, headers: Headers, requested: int, channels: int, *, labelled: bool
) -> Iterator[Finding]:
    """Advice on the size, and commands that run as they are printed, the quickest way first."""
    middle, low = (int(np.percentile(headers.shortest, percent)) for percent in (50, 5))
    model = f"a model of {requested} pixels" if requested else "--time chooses a size to suit"
    words = f"shorter side: median {middle} pixels, 5 % below {low}; {model}"
    change = f"most would be enlarged: --size {max(32, middle // 32 * 32)} loses nothing"
    yield judge("sizes", words, change if middle < requested else "")
    images = shlex.quote(data)
    verb, out = ("finetune", "classifier") if labelled else ("pretrain", "pretrain")
    released = f"beit {verb} --data {images} --init beit-base-22k --out runs/{out} --time 1h"
    if not any(mode.endswith(BANDS) for mode in headers.modes):
        words = "from a released model, which is downloaded (`beit models`) and sees 3 channels"
        yield Finding("ok", "start", words, released)
    command = f"beit pretrain --data {images} --out runs/pretrain --time 1h"
    command += f" --channels {channels}" * (channels != 3) + f" --size {requested}" * (
        requested > 0
    )
    words = f"pre-training from scratch on these {number:,} images"
    if number < FEW_TO_PRETRAIN:
        judged = judge(
            "advice",
            f"{words}: too few to beat a released model",
            command if channels != 3 else released,
        )
    else:
        judged = Finding(
            "ok", "advice", f"{words}, if they look different from photographs", command
        )
    yield judged
