"""Which images are held out for validation, and which few are learned from: decided by key.

Of images with one class each, every class gives its fraction. Of images with several labels, an
image that is held out is so for all of its labels; the labels are served one after the other, the
rarest first (Sechidis et al. 2011, "On the stratification of multi-label data", in the order of a
hash instead of at random).
"""

from __future__ import annotations

import hashlib

import numpy as np

from beit.data.listing import quoted
from beit.data.sources import ImageSource, class_counts, is_multi_label, select
from beit.errors import ConfigError, DataError


def _ranks(source: ImageSource, indices: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """The indices in a random order that depends on each key alone.

    Adding or removing an image so leaves the others on their side of a split.
    """

    def rank(index: int) -> bytes:
        text = f"{purpose}:{seed}:{source.key(index)}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()

    return np.array(sorted(indices.tolist(), key=rank), dtype=np.int64)


def _by_class(source: ImageSource) -> list[np.ndarray]:
    assert source.targets is not None
    return [np.flatnonzero(source.targets == target) for target in range(len(source.classes))]


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
            remedy="use a share between 0 and 1, such as 0.2, or provide train/ and val/",
        )
    several = is_multi_label(source)
    held = (_held_of_several if several else _held_of_one)(source, split, seed)
    if not held.any():
        raise DataError(
            "every class has a single image: none is left for validation",
            remedy="add images, or provide train/ and val/",
        )
    return select(source, np.flatnonzero(~held)), select(source, np.flatnonzero(held))


def _quota(count: int, split: float) -> int:
    return min(max(round(count * split), 1), count - 1)


def _held_of_one(source: ImageSource, split: float, seed: int) -> np.ndarray:
    held = np.zeros(len(source), np.bool_)
    for indices in _by_class(source):
        held[_ranks(source, indices, seed, "split")[: _quota(len(indices), split)]] = True
    return held


def _held_of_several(source: ImageSource, split: float, seed: int) -> np.ndarray:
    """The last training image of a class is never held out for another of its labels."""
    targets = source.targets
    assert targets is not None
    order = _ranks(source, np.arange(len(source)), seed, "split")
    left = class_counts(source)  # for training
    held = np.zeros(len(source), np.bool_)
    for target in np.argsort(left, kind="stable"):
        members = order[targets[order, target]]
        missing = _quota(len(members), split) - int(held[members].sum())
        for index in members[~held[members]].tolist():
            if missing < 1:
                break
            if (left[targets[index]] > 1).all():
                held[index] = True
                left -= targets[index]
                missing -= 1
    bare = order[~targets[order].any(axis=1)]
    if len(bare):
        held[bare[: _quota(len(bare), split)]] = True
    return held


def few(source: ImageSource, per_class: int, seed: int) -> ImageSource:
    """Exactly `per_class` images of each class.

    With several labels per image as few as give each class that many: an image counts for each of
    its labels, so frequent classes may have more; of those without any label as many are added.
    Errors: ConfigError for a number below 1, DataError for classes that have fewer.
    """
    if per_class < 1:
        raise ConfigError(f"per_class is {per_class}", remedy="use 1 or more, or leave it out")
    counts = class_counts(source)
    short = [
        f"{name} ({count})"
        for name, count in zip(source.classes, counts.tolist(), strict=True)
        if count < per_class
    ]
    if short:
        raise DataError(
            f"classes with fewer than {per_class} images for training: {quoted(short, 5)}",
            remedy=f"use at most {counts.min()} images per class",
        )
    chosen = (_few_of_several if is_multi_label(source) else _few_of_one)(source, per_class, seed)
    return select(source, np.sort(chosen))


def _few_of_one(source: ImageSource, per_class: int, seed: int) -> np.ndarray:
    groups = [_ranks(source, indices, seed, "few")[:per_class] for indices in _by_class(source)]
    return np.concatenate(groups)


def _few_of_several(source: ImageSource, per_class: int, seed: int) -> np.ndarray:
    targets = source.targets
    assert targets is not None
    order = _ranks(source, np.arange(len(source)), seed, "few")
    chosen = np.zeros(len(source), np.bool_)
    for target in np.argsort(class_counts(source), kind="stable"):
        members = order[targets[order, target]]
        missing = max(per_class - int(chosen[members].sum()), 0)
        chosen[members[~chosen[members]][:missing]] = True
    chosen[order[~targets[order].any(axis=1)][:per_class]] = True
    return np.flatnonzero(chosen)
