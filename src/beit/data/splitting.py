"""Which images are held out for validation, and which few are learned from: decided by key.

Of images with one class each, every class gives its fraction. Of images with several labels, an
image that is held out is so for all of its labels; the labels are served one after the other, the
rarest first (Sechidis et al. 2011, "On the stratification of multi-label data", in the order of a
hash instead of at random). One class each is the case in which no image serves two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from beit.data.listing import quoted
from beit.data.sources import ImageSource, class_counts, select
from beit.errors import ConfigError, DataError


def hold_out(source: ImageSource, split: float, seed: int) -> tuple[ImageSource, ImageSource]:
    """Training and validation: a fraction of each class, and at least one image on either side if
    the class has two.

    With several labels per image a class may come out somewhat above its fraction, as its images
    are also held out for others; those without any label are divided like a class.
    Errors: ConfigError for a fraction that is none, DataError if nothing is left for validation.
    """
    if not 0 < split < 1:
        raise ConfigError(
            f"split is {split}, and there is no val/ folder",
            remedy="use a fraction between 0 and 1, such as 0.2, or provide train/ and val/",
        )
    targets, left = source.targets, class_counts(source)  # left for training
    assert targets is not None
    held = np.zeros(len(source), np.bool_)
    for members, labelled in _classes(source, seed, "split"):
        quota = min(max(round(len(members) * split), 1), len(members) - 1)
        missing = quota - int(held[members].sum())
        if targets.ndim == 1:
            held[members[: max(missing, 0)]] = True
            continue
        for index in members[~held[members]].tolist():
            if missing < 1:
                break
            # The last training image of a class is never held out for another of its labels.
            if not labelled or (left[targets[index]] > 1).all():
                held[index] = True
                left[targets[index]] -= 1
                missing -= 1
    if not held.any():
        raise DataError(
            "every class has a single image: none is left for validation",
            remedy="add images, or provide train/ and val/",
        )
    return select(source, np.flatnonzero(~held)), select(source, np.flatnonzero(held))


def few(source: ImageSource, per_class: int, seed: int) -> ImageSource:
    """Exactly `per_class` images of each class.

    With several labels per image as few as give each class that many: an image counts for each of
    its labels, so frequent classes may have more; of those without any label as many are added.
    Errors: ConfigError for a number below 1, DataError for classes that have fewer.
    """
    if per_class < 1:
        raise ConfigError(f"per_class is {per_class}", remedy="use 1 or more, or leave it out")
    counts = dict(zip(source.classes, class_counts(source).tolist(), strict=True))
    short = [f"{name} ({count})" for name, count in counts.items() if count < per_class]
    if short:
        raise DataError(
            f"classes with fewer than {per_class} images for training: {quoted(short, 5)}",
            remedy=f"use at most {min(counts.values())} images per class",
        )
    chosen = np.zeros(len(source), np.bool_)
    for members, _ in _classes(source, seed, "few"):
        missing = max(per_class - int(chosen[members].sum()), 0)
        chosen[members[~chosen[members]][:missing]] = True
    return select(source, np.flatnonzero(chosen))


def _classes(source: ImageSource, seed: int, purpose: str) -> Iterator[tuple[np.ndarray, bool]]:
    """The images of each class, the rarest first, and at last those without any label; and whether
    they have one.

    They are in a random order that depends on each key alone, so that adding or removing an image
    leaves the others on their side of a split.
    """

    def rank(index: int) -> bytes:
        text = f"{purpose}:{seed}:{source.key(index)}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()

    assert source.targets is not None
    order = np.array(sorted(range(len(source)), key=rank), np.int64)
    targets = source.targets[order]
    several = targets.ndim == 2
    for target in np.argsort(class_counts(source), kind="stable"):
        yield order[targets[:, target] if several else targets == target], True
    if several and not targets.any(axis=1).all():
        yield order[~targets.any(axis=1)], False
