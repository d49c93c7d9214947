"""Several mask files of one image: which are whose, and what each shows, by their names.

They are the parts of one object, as lesions and cells, or a class each, as `x_road.png` beside
`x_tree.png`. What names leave open is refused until an option says it: several people may have
drawn the same object, too.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

from beit.config.segment_run import SeveralMasks
from beit.data.folder_names import behind
from beit.data.listing import natural_key
from beit.errors import ConfigError, DataError
from beit.terminal import counted, quoted

_SIGNS = "_-. "
_NUMBER = re.compile(r"[_\-. ]*\(?[0-9]+\)?$")
ENOUGH = 8
"""Masks of names that never come back are no chance: they number or identify objects."""


class Layers(NamedTuple):
    """The mask files of one image, relative to the data's folder."""

    files: tuple[str, ...]
    words: tuple[str, ...]
    """What the name of each has besides that of its image; once it is settled that each shows one
    class, the class. Empty where all show the same."""
    may_overlap: bool = False
    """Whether it was said what they are, so that a pixel may be in several."""


class Settled(NamedTuple):
    """What several masks of an image are."""

    several: SeveralMasks
    masks: Mapping[str, str | Layers]
    """Those of each image."""
    classes: tuple[str, ...]
    """Those that have masks of their own, in natural order."""
    note: str


class _Named(NamedTuple):
    """A mask, by names without extension."""

    image: str
    word: str
    """What it has besides the name of its image, with the sign before it."""


def layers_of(masks: Mapping[str, str], images: Collection[str]) -> dict[str, Layers]:
    """The masks of each image, by names without extension, of which `masks` has the files: names
    with more behind the image's (`x_1`), or with one folder more (`road/x`, `x/1`). Empty if a mask
    has no image so."""
    found: dict[str, Layers] = {}
    for mask in sorted(masks, key=natural_key):
        named = _named(mask, images)
        if named is None:
            return {}
        files, words, _ = found.get(named.image, Layers((), ()))
        found[named.image] = Layers((*files, masks[mask]), (*words, named.word))
    return found


def _named(mask: str, images: Collection[str]) -> _Named | None:
    parts = mask.split("/")
    for at in reversed(range(len(parts))):
        image = "/".join(parts[:at] + parts[at + 1 :])
        if image in images:
            return _Named(image, parts[at])
    more = behind(mask, images)
    return None if more is None else _Named(mask.removesuffix(more), more)


def settle(path: str, layers: Mapping[str, Layers], stated: SeveralMasks) -> Settled:
    """What the masks of images that may have several are, of all splits together.

    Errors: DataError where their names leave it open, or name no class; ConfigError if it was
    stated of none.
    """
    if not layers:
        if stated != "auto":
            raise ConfigError(
                f"several_masks is {stated}, and the masks of {path} are not in files of their own "
                "for each object or class",
                remedy="leave --several-masks out",
            )
        return Settled("auto", {}, (), "")
    words = _without_numbers({word for each in layers.values() for word in each.words})
    several = _by_names(path, layers, words) if stated == "auto" else stated
    settled = several == stated
    if several == "object":
        many = [each.files for each in layers.values() if each.files[1:]]
        joined = {image: Layers(each.files, (), settled) if each.files[1:] else each.files[0]
                  for image, each in layers.items()}  # fmt: skip
        note = f"the masks of {counted(len(many), 'image')} are joined, as parts of one object"
        return Settled(several, joined, (), f"{note}: {quoted(many[0])}" if many else "")
    if len({*words.values()}) == 1:
        words = _without_shared({word: word.strip(_SIGNS) for word in words})
    if not all(words.values()):
        raise DataError(
            f"the names of some masks of {path} have nothing besides those of their images that "
            "would say their class",
            remedy="call them by their classes, as x_road.png; or --several-masks object",
        )
    named = {image: Layers(each.files, tuple(words[word] for word in each.words), settled)
             for image, each in layers.items()}  # fmt: skip
    classes = tuple(sorted({*words.values()}, key=natural_key))
    note = f"each mask shows one class, by its name: {quoted(classes, 8)}"
    return Settled(several, named, classes, note)


def _by_names(path: str, layers: Mapping[str, Layers], words: Mapping[str, str]) -> SeveralMasks:
    """Parts of an object where masks are numbered, a class each where words come back.

    Errors: DataError where it is neither.
    """
    each_image = [{words[word] for word in each.words} for each in layers.values()]
    images = Counter(word for found in each_image for word in found)
    masks = [words[word] for each in layers.values() for word in each.words]
    again = sum(images[word] > 1 for word in masks)
    if len(images) == 1:  # but for numbers, which may number the people who drew, or the classes
        if len(layers) == 1 or len({each.words for each in layers.values()}) > 1:
            return "object"
    elif all(images) and again > len(masks) / 2:
        return "classes"
    elif not again and len(masks) >= ENOUGH:
        return "object"
    first = next(each for each in layers.values() if each.files[1:])
    suffix = next((word for word in first.words if word[:1] in _SIGNS), "")
    raise DataError(
        f"images of {path} have several masks, such as {quoted(first.files)}: these may be parts "
        "of one object, a class each, or the same drawn by several people",
        remedy="say which: --several-masks object joins them, --several-masks classes takes each "
        f"for a class{f', --mask-suffix {suffix} reads only those' if suffix else ''}",
    )


def _without_numbers(words: Collection[str]) -> dict[str, str]:
    return _without_shared({word: _NUMBER.sub("", word).strip(_SIGNS) for word in words})


def _without_shared(words: Mapping[str, str]) -> dict[str, str]:
    """Without the words at the beginning and at the end that all have: `attribute_globules`."""
    different = {*words.values()}
    if len(different) < 2:
        return {**words}
    begin = os.path.commonprefix([*different])  # noqa: RUF071 - of names
    begin = begin[: max(map(begin.rfind, _SIGNS)) + 1]
    end = os.path.commonprefix([word[::-1] for word in different])  # noqa: RUF071
    end = end[: max(map(end.rfind, _SIGNS)) + 1][::-1]
    return {word: name.removeprefix(begin).removesuffix(end) for word, name in words.items()}
