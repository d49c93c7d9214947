"""What folders and files are called that are splits, folds, images and masks."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

Role = Literal["train", "val", "test"]

_WHAT = r"([ _-]?(set|data|dataset|images|imgs|split|[0-9]{1,4}))?"
"""What the name of a split may have behind it: training_set, train2017, test1."""
ROLES: dict[Role, re.Pattern[str]] = {
    "train": re.compile(rf"(train|training|trn|train[ _-]?val){_WHAT}"),
    "val": re.compile(rf"(val|valid|validation|dev){_WHAT}"),
    "test": re.compile(rf"(test|testing|tst){_WHAT}"),
}
FOLD = re.compile(r"(fold|split|cv)[ _-]?\d+")
IMAGES = (
    r"(images?|imgs?|img_dir|images?_dir|jpegimages|leftimg8bit|pictures|photos|rgb|originals?)"
)
_MASKS = (
    r"(masks?|labels?|annotations?|annots?|ann_dir|masks?_dir|segmentations?|segmentationclass|gt|"
    r"gtfine|ground[ _-]?truth|1st_manual|trimaps?)"
)
MASK_FOLDER = re.compile(rf"(?P<beginning>.*?)[ _-]?{_MASKS}")
_MASK_FILE = re.compile(
    r"[_.-](masks?|labels?|labelids|gt|seg|segmentation|annotation|manual1)[ _-]?\d*(?=\.[^./]+$)",
    re.IGNORECASE,
)
"""What the name of a mask that lies among the images ends in."""
LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")


@lru_cache(maxsize=1024)
def split_called(name: str) -> Role | None:
    """`train`, `val` or `test` for what a split may be called, in any case; else None."""
    word = name.strip().lower()
    return next((role for role, known in ROLES.items() if known.fullmatch(word)), None)


def split_name(name: str) -> str:
    """The same; other names stay."""
    return split_called(name) or name


def split_above(path: str) -> Role | None:
    """The split of the first folder of a path that is called as one."""
    return next(filter(None, map(split_called, path.split("/")[:-1])), None)


def split_named_by(words: Iterable[str]) -> Role | None:
    """The one split that some words name; None if there is none, or several."""
    named = {role for word in words if (role := split_called(word))}
    return named.pop() if len(named) == 1 else None


def splits_among(names: Sequence[str]) -> dict[Role, list[str]]:
    """Which of some names are called as splits are: `train`; or, where all names begin alike, what
    is left of them: `pets_train` beside `pets_test`."""
    begin = os.path.commonprefix([*map(str.lower, names)]) if len(names) > 1 else ""  # noqa: RUF071
    begin = begin.rstrip("abcdefghijklmnopqrstuvwxyz0123456789")  # whole words
    for start in dict.fromkeys((0, len(begin))):
        found: dict[Role, list[str]] = {}
        for name in names:
            if role := split_called(name[start:]):
                found.setdefault(role, []).append(name)
        if found:
            return found
    return {}


def masks_beside(names: Sequence[str]) -> dict[str, list[str]]:
    """Of the names of folders those of images that have folders of masks beside them: `images` and
    `masks`, `train` and `train_masks`, `val_images` and `val_labels`."""
    found: dict[str, list[str]] = {}
    for mask in names:
        named = MASK_FOLDER.fullmatch(mask.lower())
        if named is None:
            continue
        beginning = re.escape(named["beginning"])
        of_images = re.compile(rf"{beginning}[ _-]?{IMAGES}" + rf"|{beginning}" * bool(beginning))
        for name in names:
            if of_images.fullmatch(name.lower()):
                found.setdefault(name, []).append(mask)
    return found


def masks_among(paths: Sequence[str]) -> set[str]:
    """The files among images that are masks by their names: `x_mask.png` beside `x.jpg`; or, where
    there is one of either for every name, `x.png` beside `x.jpg`."""
    stems = [path.rpartition(".")[0] for path in paths]
    named = [path for path in paths if _MASK_FILE.search(path)]
    if named:
        known = set(stems)
        return {path for path in named if _MASK_FILE.sub("", path).rpartition(".")[0] in known}
    kinds = Counter(path[len(stem) :].lower() for path, stem in zip(paths, stems, strict=True))
    if len(kinds) == 2 and len({*kinds.values()}) == 1 and len({*stems}) * 2 == len(stems):
        for mask, image in (tuple(kinds), tuple(kinds)[::-1]):
            if mask in LOSSLESS and image in (".jpg", ".jpeg"):
                return {path for path in paths if path.lower().endswith(mask)}
    return set()


def last_name(folder: str) -> str:
    """The name of a folder without those above it."""
    return folder.rpartition("/")[2]
