"""Whether masks hold the classes that they should: two at least, those of the list or model."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from beit.config.segment_run import IGNORE
from beit.data.mask_labels import BINARY_CLASSES, MaskReading, Surveyed
from beit.errors import DataError
from beit.terminal import counted, printable, quoted

_NUMBER = re.compile(r"(class )?\d+")


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
