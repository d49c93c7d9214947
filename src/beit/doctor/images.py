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
from beit.data.check import KINDS, UNREADABLE, Checked, check_parts
from beit.data.dataset import open_parts
from beit.data.decode import read_header
from beit.data.pixel_types import UnreadableError
from beit.data.sources import ImageSource, evenly
from beit.doctor.finding import Finding, Level
from beit.errors import BeitError
from beit.recipes import RECIPES

MOST_HEADERS = 400
FEW_TO_PRETRAIN = 1_000
MANY = 100_000
EPOCHS = 100
UNEVEN = 20
"""The largest class over the smallest."""
SERIOUS: dict[str, Level] = {
    UNREADABLE: "fail",
    "in two parts": "fail",
    "in two classes": "fail",
    "turned": "ok",
    "printing colours": "ok",
}
CHANGES = {
    UNREADABLE: "repair or remove these files, or follow the advice given for each",
    "in two parts": "keep each image in one part only",
    "in two classes": "decide for one class",
    "duplicate": "remove the copies: they count double",
    "few in class": "collect more, or join classes",
    "class missing": "give each part images of every class",
    "tiny": "remove them, or use a recipe of their size (--size)",
}


class Look(NamedTuple):
    """What the headers of some images say."""

    shortest: np.ndarray
    """The shorter side of each, in pixels."""
    modes: Counter[str]
    """Pillow's names for the kinds of pixels."""


def look(parts: Mapping[str, ImageSource]) -> Look:
    """Read the headers of a few images of every part."""
    sides, modes = [], Counter[str]()
    for source in parts.values():
        few = evenly(source, max(1, MOST_HEADERS // len(parts)))
        for index in range(len(few)):
            try:
                header = read_header(few.read(index).data)
            except UnreadableError:
                continue  # told of by the check
            sides.append(min(header.height, header.width))
            modes[header.mode] += 1
    return Look(np.array(sides, np.int64), modes)


def _finding(level: Level, subject: str, found: str, change: str = "") -> Finding:
    return Finding(level, subject, found, change, "images")


def _understood(account: Account) -> Iterator[Finding]:
    """What the data were taken for, and what is skipped."""
    first, *lines = [line.strip() for line in account.lines()]
    told = [line for line in lines if not line.startswith("skipped")]
    yield _finding("ok", "layout", "; ".join((first, *told)))
    skipped = [line.removeprefix("skipped: ") for line in lines if line.startswith("skipped")]
    if skipped:
        yield _finding(
            "warn",
            "skipped",
            "; ".join(skipped),
            "convert those that are images to learn from; the others are rightly skipped",
        )


def _faults(found: Checked) -> Iterator[Finding]:
    every = sum(found.images.values())
    sampled = f"{found.looked_at:,} of {every:,}" if found.looked_at < every else f"all {every:,}"
    yield _finding("ok", "images", f"{sampled} were looked through")
    for kind, number in found.counts.items():
        examples = [one for one in found.findings if one.kind == kind][:2]
        named = "; ".join(f"{one.name}: {one.detail}" for one in examples)
        level = SERIOUS.get(kind, "warn")
        change = CHANGES.get(kind, "") if level != "ok" else ""
        yield _finding(level, kind, f"{number:,} ({KINDS[kind]}): {named}", change)


def _balance(found: Checked, learned_from: str) -> Iterator[Finding]:
    numbers = {name: counts.get(learned_from, 0) for name, counts in found.classes.items()}
    numbers = {name: number for name, number in numbers.items() if number}
    if len(numbers) < 2:
        words = "none: enough to pre-train; for a classifier put each class into a folder"
        yield _finding("ok", "classes", words)
        return
    most, least = max(numbers, key=numbers.__getitem__), min(numbers, key=numbers.__getitem__)
    ratio = numbers[most] / numbers[least]
    words = f"{len(numbers)}, from {numbers[least]:,} ({least}) to {numbers[most]:,} ({most})"
    change = "accuracy will hide the rare classes: look at the class table of the report"
    uneven = ratio > UNEVEN
    yield _finding("warn" if uneven else "ok", "classes", words, change if uneven else "")


def _kinds(seen: Look, channels: int) -> Iterator[Finding]:
    """Channels asked for against those the files have."""
    words = ", ".join(
        f"{number} {'of ' if mode.endswith(' bands') else ''}{mode}"
        for mode, number in seen.modes.most_common(4)
    )
    grey = sum(number for mode, number in seen.modes.items() if mode in ("1", "L", "I;16", "I"))
    total = sum(seen.modes.values())
    change = ""
    if channels == 3 and grey == total:
        change = "all are grey and would be repeated three times: --channels 1 is less work"
    elif channels == 1 and grey < total:
        change = "colours will be turned into grey: use --channels 3 if they matter"
    banded = [mode for mode in seen.modes if mode.endswith(" bands")]
    if banded and f"{channels} bands" not in banded:
        number = banded[0].partition(" ")[0]
        change = f"these files have {number} bands each: --channels {number}"
    level: Level = "warn" if change and (channels == 1 or banded) else "ok"
    yield _finding(level, "channels", f"read with {channels}; files: {words}", change)


def suggest(number: int, shortest: int, gpu: bool) -> tuple[str, int]:
    """A recipe and a size in pixels for so many images whose typical shorter side is this."""
    if gpu:
        return ("base-in1k" if number >= MANY else "small"), 224
    # On a CPU each step costs the number of patches; 64 pixels are what the demo affords.
    return ("tiny", 64 if shortest >= 64 else 32)


def _advice(number: int, seen: Look, asked: int) -> Iterator[Finding]:
    middle, low = (int(np.percentile(seen.shortest, share)) for share in (50, 5))
    gpu = torch.cuda.is_available()
    recipe, size = suggest(number, middle, gpu)
    size = asked or size
    words = f"shorter side: median {middle} pixels, 5 % below {low}; "
    words += f"for a model of {size} pixels ({'--size' if asked else 'recommended here'})"
    small = middle < size
    change = f"most would be enlarged: --size {max(32, middle // 32 * 32)} loses nothing"
    yield _finding("warn" if small else "ok", "sizes", words, change if small else "")
    if number < FEW_TO_PRETRAIN:
        words = f"{number:,} images are few to pre-train on"
        change = (
            "start from a released model: beit finetune --init hf:microsoft/beit-base-patch16-224"
        )
        yield _finding("warn", "advice", words, change)
        return
    where = "one GPU" if gpu else "this CPU"
    words = f"for {number:,} images on {where}: beit pretrain {recipe} --size {size}"
    yield _finding("ok", "advice", words, _budget(number, gpu))


def _budget(number: int, gpu: bool) -> str:
    config = RECIPES["pretrain"]["small" if gpu else "tiny"]()
    assert isinstance(config, PretrainRunConfig)
    batch = config.training.batch
    epochs = config.training.steps * batch / number
    return (
        f"its own {config.training.steps:,} steps of {batch} are {epochs:.1f} epochs; "
        f"--steps {max(1, round(EPOCHS * number / batch)):,} would be {EPOCHS}"
    )


def check_images(
    data: str,
    *,
    channels: int,
    sample: int,
    size: int,
    reading: Reading = AS_RECOGNISED,
) -> Iterator[Finding]:
    """Look through a sample and say what suits."""
    try:
        parts = open_parts(data, reading)
        found = check_parts(data, parts, channels=channels, sample=sample)
    except BeitError as error:
        yield _finding("fail", "images", error.problem, error.remedy)
        return
    yield from _understood(found.account)
    yield from _faults(found)
    seen = look(parts)
    if not len(seen.shortest):
        return  # none can be read, as was said
    learned_from = "train" if "train" in parts else next(iter(parts))
    yield from _balance(found, learned_from)
    yield from _kinds(seen, channels)
    yield from _advice(len(parts[learned_from]), seen, size)
