"""Patterns that find the class or the group of an image in its name.

Images of one group, such as those of one patient or place, are held out together or not at all: if
some were trained on and others measured on, scores would come out too high.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from beit.config.data import check_pattern
from beit.data.image_names import composed
from beit.data.listing import natural_key
from beit.data.sources import ImageSource, keys_of
from beit.errors import DataError
from beit.rng import drawn_order
from beit.terminal import counted, quoted

MOST = 3
"""Patterns that are suggested at most."""
LOOKED_AT = 2000
"""Names that are searched at most; they suffice to see how all are formed."""
MOST_WORDS = 6
"""Words from the beginning of a name among which the class is looked for."""
IMAGES_PER_CLASS = 2
"""The average number of images from which on a word is taken for a class."""
_LETTER = re.compile("[^\\W\\d_]")
_SIGNS = {"_": "_", "-": "-", ".": r"\.", " ": " "}
"""The characters between words, and how patterns write them."""


def found_in(names: Sequence[str], pattern: str, option: str) -> list[str]:
    """What a pattern finds in each name: its first group or, without one, the whole match.

    Args:
        names: The names of the images.
        pattern: A regular expression, which is searched anywhere in a name.
        option: The name of the option that holds it, for messages.

    Raises:
        ConfigError: The pattern is not a regular expression.
        DataError: It finds nothing in some of the names.
    """
    check_pattern(option, pattern)
    compiled = re.compile(pattern, re.DOTALL)
    group = 1 if compiled.groups else 0
    found = [match[group] or "" if (match := compiled.search(name)) else "" for name in names]
    missing = [name for name, text in zip(names, found, strict=True) if not text]
    if missing:
        raise DataError(
            f"the pattern '{pattern}' (--{option.replace('_', '-')}) finds nothing in "
            f"{len(missing)} of {len(names)} names of images: {quoted(missing)}",
            remedy="give a pattern that matches every name",
        )
    return found


def classes_in(names: Sequence[str], pattern: str, *, needed: bool) -> list[str]:
    """The class that a pattern finds in each name.

    Args:
        names: The names of the images.
        pattern: The value of `label_pattern`.
        needed: Whether it is an error if the pattern finds nothing in any name. Otherwise the
            result is then empty, as test sets are often published without labels.

    Raises the errors of `found_in`.
    """
    if not needed and not any(map(re.compile(pattern, re.DOTALL).search, names)):
        return []
    return [*map(composed, found_in(names, pattern, "label_pattern"))]


def suggested_patterns(names: Sequence[str]) -> str:
    """Values of `label_pattern` that suit these names, as typed, with the classes that they find:
    an addition to a remedy. Empty if no pattern finds classes."""
    found = _class_patterns(names)
    in_words = {one: classes for one, classes in found.items() if any(map(_LETTER.search, classes))}
    typed = [f"--label-pattern '{one}' finds {quoted(classes)}"
             for one, classes in (in_words or found).items()]  # fmt: skip
    return f"; here {'; or '.join(typed[:MOST])}" if typed else ""


def _class_patterns(names: Sequence[str]) -> dict[str, list[str]]:
    """The patterns that may find the classes in names, with the classes: at least two, of at least
    two images on average. Of patterns that divide the images alike, only the first is kept."""
    sample = names[:: len(names) // LOOKED_AT + 1]
    found: dict[str, list[str]] = {}
    divisions = set[tuple[int, ...]]()
    for pattern in _possible():
        matches = [*map(re.compile(pattern, re.DOTALL).search, sample)]
        labels = [match[1] for match in matches if match]
        classes = sorted({*labels}, key=natural_key)
        if len(labels) < len(sample) or not 1 < len(classes) <= len(labels) / IMAGES_PER_CLASS:
            continue
        first = {name: at for at, name in reversed([*enumerate(labels)])}
        division = tuple(first[name] for name in labels)
        if division not in divisions:
            divisions.add(division)
            found[pattern] = classes
    return found


def _possible() -> Iterator[str]:
    """Patterns for all that precedes a final number (`cat.0.jpg`), for the last word (`0-cat.jpg`),
    and for each of the first words."""
    for sign in _SIGNS.values():
        yield rf"([^/]+){sign}[0-9]+\."
    yield r"([^/]+) \([0-9]+\)\."
    yield r"([^/0-9]+)[0-9]+\."
    for char, sign in _SIGNS.items():
        yield rf"{sign}([^/.{char.strip('.')}]+)\."
    for at in range(MOST_WORDS):
        for char, sign in _SIGNS.items():
            yield f"[^/{char}]+{sign}" * at + f"([^/{char}]+){sign}"


class Groups(NamedTuple):
    """The group of each image."""

    names: tuple[str, ...]
    of: np.ndarray
    """The index in `names` of the group of each image, int64 [n]."""
    images: np.ndarray
    """How many images of each class each group has, int64 [G, C+1]; the last column counts images
    without a label."""

    @classmethod
    def of_source(cls, source: ImageSource, pattern: str) -> Groups:
        """The groups of the images of a source. Raises the errors of `found_in`."""
        return cls.of_names(keys_of(source), pattern, source.targets, len(source.classes))

    @classmethod
    def of_names(
        cls, keys: Sequence[str], pattern: str, targets: np.ndarray | None = None, classes: int = 0
    ) -> Groups:
        """The groups of images with these names.

        Args:
            keys: The names of the images.
            pattern: Finds the group in a name.
            targets: Their classes, as `ImageSource.targets`; None without labels.
            classes: The number of classes.

        Raises the errors of `found_in`.
        """
        each = found_in(keys, pattern, "groups")
        names = tuple(sorted(set(each), key=natural_key))
        number = {name: at for at, name in enumerate(names)}
        of = np.array([number[name] for name in each], np.int64)
        images = np.zeros((len(names), classes + 1), np.int64)
        if targets is None or targets.ndim == 1:
            labels = np.full(len(of), classes) if targets is None else targets
            cells = np.bincount(of * (classes + 1) + labels, minlength=images.size)
            images += cells.reshape(images.shape)
        else:
            np.add.at(images[:, :classes], of, targets.astype(np.int64))
            np.add.at(images[:, classes], of, ~targets.any(axis=1))
        return cls(names, of, images)

    def hold_out(self, split: float, seed: int) -> np.ndarray:
        """Which images are held out, bool [n]: whole groups, so that the fraction of each class is
        as near to `split` as they allow, and never all groups of a class.

        Raises:
            DataError: No group can be held out, as each has all images of a class.
        """
        held = np.zeros(len(self.names), np.bool_)
        left = self.images.sum(axis=0)

        def hold(at: int) -> bool:
            """Hold a group out unless a class would have no image left to train on."""
            rest = left - self.images[at]
            held[at] = bool(rest[self.images[at] > 0].all())
            left[:] = rest if held[at] else left
            return bool(held[at])

        for label, members in self._by_class("split", seed):
            sizes = self.images[:, label]
            wanted = max(round(int(sizes.sum()) * split), 1)
            for at in members[~held[members]].tolist():
                if sizes[at] < 2 * (wanted - sizes[held].sum()):  # nearer with it than without
                    hold(at)
            if not sizes[held].any():  # all groups are too large: take the smallest that can go
                any(map(hold, members[np.argsort(sizes[members], kind="stable")].tolist()))
        if not held.any():
            raise DataError(
                f"none of {counted(len(self.names), 'group')} of images can be held out, as each "
                "has all images of a class",
                remedy="provide train/ and val/, or another --groups",
            )
        images: np.ndarray = held[self.of]
        return images

    def folds(self, count: int, seed: int) -> np.ndarray:
        """The fold that holds each image out, int64 [n]: each fold has about as many images of each
        class, and all images of a group are in one fold.

        Raises:
            DataError: There are fewer groups than folds, or a class lies in a single group, so that
                one fold would have no image of it to train on.
        """
        fewest = (self.images > 0).sum(axis=0)[:-1]  # without the column of unlabelled images
        if len(self.names) < count or (fewest == 1).any():
            raise DataError(
                f"{counted(len(self.names), 'group')} of images cannot be divided into {count} "
                f"folds; {counted(int((fewest == 1).sum()), 'class')} in a single group",
                remedy="use fewer folds, or another --groups",
            )
        fold = np.full(len(self.names), -1, np.int64)
        sizes = np.zeros(count, np.int64)
        for label, members in self._by_class("fold", seed):
            images = self.images[:, label]
            have = np.bincount(fold[fold >= 0], images[fold >= 0], minlength=count)
            # Large groups come first, as smaller ones can then even out the folds.
            for at in members[np.argsort(-images[members], kind="stable")]:
                if fold[at] < 0:
                    fold[at] = np.lexsort((sizes, have))[0]
                    have[fold[at]] += images[at]
                    sizes[fold[at]] += self.images[at].sum()
        numbers: np.ndarray = fold[self.of]
        return numbers

    def _by_class(self, purpose: str, seed: int) -> Iterator[tuple[int, np.ndarray]]:
        """Each class with its groups: classes in the order of the number of groups that have them,
        fewest first, groups in a random order that depends on their names and the seed."""
        order = drawn_order(self.names, purpose, seed)
        has = self.images > 0
        for label in np.argsort(has.sum(axis=0), kind="stable").tolist():
            if has[:, label].any():
                yield label, order[has[order, label]]

    def words(self, held: Sequence[str], pattern: str) -> str:
        """How many groups were held out, given the names of the images, for an account."""
        number = len({*found_in(held, pattern, "groups")})
        return f"in {number} of {counted(len(self.names), 'group')} (--groups {pattern})"


def in_both(train: Sequence[str], held_out: Sequence[str], pattern: str) -> str:
    """A note on groups with images in both parts of data that come divided.

    Args:
        train: The names of the images for training.
        held_out: Those of the images for validation.
        pattern: Finds the group in a name.
    """
    learned, held = ({*found_in(keys, pattern, "groups")} for keys in (train, held_out))
    shared = sorted(learned & held, key=natural_key)
    if not shared:
        return f"no group has images in both training and validation (--groups {pattern})"
    return (
        f"{counted(len(shared), 'group')} (--groups {pattern}) in both training and validation: "
        f"scores come out too high ({quoted(shared)})"
    )
