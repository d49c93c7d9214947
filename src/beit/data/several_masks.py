"""Several mask files of one image: matches them with their image, and finds what each shows, by
their names.

They show parts of one object, such as lesions or cells, or a class each, such as `x_road.png`
beside `x_tree.png`. Where names leave it open, an option must say it, as several people may also
have drawn the same object.
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
"""If there are this many masks, and none of their words recurs for another image, words number or
identify objects."""


class Layers(NamedTuple):
    """The mask files of one image, with paths relative to the data's folder."""

    files: tuple[str, ...]
    words: tuple[str, ...]
    """What the name of each mask adds to that of its image; after `settle`, its class, or empty if
    all show parts of one object."""
    may_overlap: bool = False
    """Whether a pixel may be in several, as an option says what the masks show."""


class Settled(NamedTuple):
    """What the masks of images with several show."""

    several: SeveralMasks
    masks: Mapping[str, str | Layers]
    """The masks of each image."""
    classes: tuple[str, ...]
    """The classes that have masks of their own, in natural order."""
    note: str
    """For the account; may be empty."""


class _Named(NamedTuple):
    """The name of a mask without its extension, taken apart."""

    image: str
    """The name of its image."""
    word: str
    """What the mask's name adds to that, including the separator before it."""


def layers_of(masks: Mapping[str, str], images: Collection[str]) -> dict[str, Layers]:
    """The masks of each image: those whose names continue the image's (`x_1`), or have one folder
    more (`road/x`, `x/1`). Empty if a mask has no image in this way.

    All names are without extension; `masks` maps those of masks to their files.
    """
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
    """Decide what the masks of images with several show, over all splits together.

    Args:
        path: The data's folder, for messages.
        layers: The masks of each image that may have several.
        stated: What --several-masks says.

    Raises:
        DataError: The names of the masks leave it open, or name no class.
        ConfigError: The option was given, and no image may have several masks.
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
    """Parts of an object if the masks are numbered, a class each if words recur between images.

    Raises DataError if neither is clear.
    """
    each_image = [{words[word] for word in each.words} for each in layers.values()]
    images = Counter(word for found in each_image for word in found)
    masks = [words[word] for each in layers.values() for word in each.words]
    again = sum(images[word] > 1 for word in masks)
    if len(images) == 1:  # alike but for numbers, which may also count annotators or classes
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
    """Without the words with which all names begin or end, such as that of `attribute_globules`."""
    different = {*words.values()}
    if len(different) < 2:
        return {**words}
    begin = os.path.commonprefix([*different])  # noqa: RUF071 - of names
    begin = begin[: max(map(begin.rfind, _SIGNS)) + 1]
    end = os.path.commonprefix([word[::-1] for word in different])  # noqa: RUF071
    end = end[: max(map(end.rfind, _SIGNS)) + 1][::-1]
    return {word: name.removeprefix(begin).removesuffix(end) for word, name in words.items()}
