"""What patterns find in the names of images: their classes, or what they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from beit.config.data import check_pattern
from beit.data.image_names import composed
from beit.data.listing import natural_key
from beit.errors import DataError
from beit.terminal import quoted

MOST = 3
"""Patterns that are suggested."""
LOOKED_AT = 2000
"""Names that are enough to see how all are made."""
MOST_WORDS = 6
"""Before the one that says the class."""
IMAGES_PER_CLASS = 2
"""At least, on average, or a word is no class."""
_LETTER = re.compile("[^\\W\\d_]")
_SIGNS = {"_": "_", "-": "-", ".": r"\.", " ": " "}
"""What stands between words, and how patterns write it."""


def found_in(names: Sequence[str], pattern: str, option: str) -> list[str]:
    """What the pattern of an option finds in each name: in its first parentheses, or as a whole.

    Errors: ConfigError for a pattern that is none, DataError for names in which it finds nothing.
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
            remedy="give a pattern that every name has",
        )
    return found


def classes_in(names: Sequence[str], pattern: str, *, needed: bool) -> list[str]:
    """The class that `label_pattern` finds in each name. Unless they are `needed`, none at all
    where it finds nothing in any: test sets are published without answers. Errors: as `found_in`.
    """
    if not needed and not any(map(re.compile(pattern, re.DOTALL).search, names)):
        return []
    return [*map(composed, found_in(names, pattern, "label_pattern"))]


def suggested_patterns(names: Sequence[str]) -> str:
    """For a remedy: `label_pattern` as it would be typed for these names, and what it would find;
    empty where no class shows in them."""
    found = _class_patterns(names)
    in_words = {one: classes for one, classes in found.items() if any(map(_LETTER.search, classes))}
    typed = [f"--label-pattern '{one}' finds {quoted(classes)}"
             for one, classes in (in_words or found).items()]  # fmt: skip
    return f"; here {'; or '.join(typed[:MOST])}" if typed else ""


def _class_patterns(names: Sequence[str]) -> dict[str, list[str]]:
    """The patterns that may find the classes in names, with what they find: two classes or more,
    most of several images. Of those that divide the images alike the first."""
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
    """All before the last number (`cat.0.jpg`), the last word (`0-cat.jpg`), and any other."""
    for sign in _SIGNS.values():
        yield rf"([^/]+){sign}[0-9]+\."
    yield r"([^/]+) \([0-9]+\)\."
    yield r"([^/0-9]+)[0-9]+\."
    for char, sign in _SIGNS.items():
        yield rf"{sign}([^/.{char.strip('.')}]+)\."
    for at in range(MOST_WORDS):
        for char, sign in _SIGNS.items():
            yield f"[^/{char}]+{sign}" * at + f"([^/{char}]+){sign}"
