"""Which output of a trained head belongs to each class of other data."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from beit.data.class_names import are_unnamed, as_numbers, wordnet_ids
from beit.terminal import printable

EXAMPLES = 3


class Match(NamedTuple):
    """Which output of a head belongs to each class, or why none does."""

    order: list[int] | None
    note: str = ""


def match_classes(source: Sequence[str], target: Sequence[str]) -> Match:
    """The output of a head with the classes `source` for each of the classes `target`.

    The names must be the same, in any order and in any Unicode spelling; for ImageNet's classes
    they may be WordNet ids. Classes that a file leaves without names are matched by number only,
    and only to names that are numbers from 0: that the counts agree says nothing of the order.
    """
    theirs, ours = [[unicodedata.normalize("NFC", name) for name in names]
                    for names in (source, target)]  # fmt: skip
    if theirs == ours:
        return Match(list(range(len(ours))))
    for names, note in ((theirs, "rows in the order of the classes here"),
                        (wordnet_ids(source), "matched by WordNet ids")):  # fmt: skip
        at = {name: index for index, name in enumerate(names)}
        if len(at) == len(names) and at.keys() == set(ours):
            return Match([at[name] for name in ours], note)
    if len(theirs) == len(ours) and are_unnamed(theirs):
        numbers = as_numbers(ours, len(theirs))
        if numbers is not None:
            return Match(numbers, "its classes have no names, these are numbers")
        return Match(None, "it does not name its classes; `beit convert --to beit --classes FILE` "
                     "names them")  # fmt: skip
    return Match(None, _other_classes(theirs, ours))


def _other_classes(theirs: Sequence[str], ours: Sequence[str]) -> str:
    lacking = [name for name in ours if name not in set(theirs)]
    besides = [name for name in theirs if name not in set(ours)]
    parts = [f"{what} {_listed(names)}"
             for what, names in (("it lacks", lacking), ("it has besides", besides))
             if names]  # fmt: skip
    return f"its classes are others: {' and '.join(parts) or 'one name stands for several'}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{printable(name)}'" for name in names[:EXAMPLES])
    return shown + (f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else "")
