"""A folder of images: what is wrong with it, and which recipe, size and budget suit it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from beit.config import PretrainRunConfig
from beit.config.data import AS_RECOGNISED, Reading
from beit.data.account import Account
from beit.data.check import KINDS, UNREADABLE, Checked, check
from beit.data.dataset import Dataset
from beit.data.decode import read_header
from beit.data.pixel_types import UnreadableError
from beit.data.sources import ImageSource, evenly
from beit.doctor import Finding, Level, judge
from beit.errors import BeitError
from beit.recipes import RECIPES
from beit.terminal import counted

MOST_HEADERS = 400
FEW_TO_PRETRAIN = 1_000
MANY = 100_000
EPOCHS = 100
UNEVEN = 20
"""The largest class over the smallest."""
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
    """The shorter side of each, in pixels."""
    modes: Counter[str]
    """Pillow's names for the kinds of pixels."""


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
    """Look through a sample and say what suits."""
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
        return  # none can be read, as was reported
    training = "train" if "train" in parts else next(iter(parts))
    yield _balance(found, training)
    yield _channels(headers, channels)
    yield from _advice(len(parts[training]), headers, size)


def _layout(account: Account) -> Iterator[Finding]:
    """What the data were taken for, and what is skipped."""
    first, *lines = [line.strip() for line in account.lines()]
    skipped = [line.removeprefix("skipped: ") for line in lines if line.startswith("skipped")]
    layout = [line for line in lines if not line.startswith("skipped")]
    yield judge("layout", "; ".join([first, *layout]))
    if skipped:
        change = "convert those that are images to learn from; the others are rightly skipped"
        yield judge("skipped", "; ".join(skipped), change)


def _faults(found: Checked) -> Iterator[Finding]:
    every = sum(found.images.values())
    sampled = f"{found.looked_at:,} of {every:,}" if found.looked_at < every else f"all {every:,}"
    yield judge("images", f"{sampled} were looked through")
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
    words = f"{len(numbers)}, from {numbers[least]:,} ({least}) to {numbers[most]:,} ({most})"
    change = "accuracy will hide the rare classes: look at the class table of the report"
    return judge("classes", words, change if numbers[most] / numbers[least] > UNEVEN else "")


def _channels(headers: Headers, channels: int) -> Finding:
    """Requested channels against those that the files have."""
    modes = headers.modes
    words = ", ".join(
        f"{number} {'of ' if mode.endswith(' bands') else ''}{mode}"
        for mode, number in modes.most_common(4)
    )
    words = f"read with {channels}; files: {words}"
    grey = sum(number for mode, number in modes.items() if mode in ("1", "L", "I;16", "I"))
    banded = [mode for mode in modes if mode.endswith(" bands")]
    if banded and f"{channels} bands" not in banded:
        number = banded[0].partition(" ")[0]
        change = f"these files have {number} bands each: --channels {number}"
        return judge("channels", words, change)
    if channels == 1 and grey < modes.total():
        change = "colours will be turned into grey: use --channels 3 if they matter"
        return judge("channels", words, change)
    change = "all are grey and would be repeated three times: --channels 1 is less work"
    needless = channels == 3 and grey == modes.total()
    return Finding("ok", "channels", words, change if needless else "")


def suggest(number: int, shortest: int, gpu: bool) -> tuple[str, int]:
    """A recipe and a size in pixels for so many images whose typical shorter side is this."""
    if gpu:
        return ("base-in1k" if number >= MANY else "small"), 224
    # On a CPU each step costs the number of patches; 64 pixels are what the demo affords.
    return ("tiny", 64 if shortest >= 64 else 32)


def _advice(number: int, headers: Headers, requested: int) -> Iterator[Finding]:
    middle, low = (int(np.percentile(headers.shortest, percent)) for percent in (50, 5))
    gpu = torch.cuda.is_available()
    recipe, size = suggest(number, middle, gpu)
    size = requested or size
    words = f"shorter side: median {middle} pixels, 5 % below {low}; "
    words += f"for a model of {size} pixels ({'--size' if requested else 'recommended here'})"
    change = f"most would be enlarged: --size {max(32, middle // 32 * 32)} loses nothing"
    yield judge("sizes", words, change if middle < size else "")
    if number < FEW_TO_PRETRAIN:
        words = f"{number:,} images are few to pre-train on"
        change = (
            "start from a released model: beit finetune --init hf:microsoft/beit-base-patch16-224"
        )
        yield judge("advice", words, change)
        return
    config = RECIPES["pretrain"]["small" if gpu else "tiny"]()
    assert isinstance(config, PretrainRunConfig)
    steps, batch = config.training.steps, config.training.batch
    where = "one GPU" if gpu else "this CPU"
    words = f"for {counted(number, 'image')} on {where}: beit pretrain {recipe} --size {size}"
    change = (
        f"its own {steps:,} steps of {batch} are {steps * batch / number:.1f} epochs; "
        f"--steps {max(1, round(EPOCHS * number / batch)):,} would be {EPOCHS}"
    )
    yield Finding("ok", "advice", words, change)
