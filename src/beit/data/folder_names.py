"""What folders and files are called that are splits, folds, images and masks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
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
_ROLE_WITHIN = {
    role: re.compile(
        rf"(?P<before>(?:.*[ _.-])?)(?i:{known.pattern})"
        r"(?P<behind>([ _.-].*|[A-Z](?![A-Z]).*)?)"
    )
    for role, known in ROLES.items()
}
"""The same as a word of a longer name."""
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


def splits_among(names: Sequence[str]) -> dict[Role, list[str]]:
    """Which of some names are called as splits are: `train`; or, beside others that are alike but
    for that word, `pets_train` beside `pets_test`. Masks are no splits of their own."""
    found: dict[Role, list[str]] = {}
    for name in names:
        if role := split_called(name):
            found.setdefault(role, []).append(name)
    groups = [] if found else split_groups(names)
    of_images = [
        group for group in groups
        if not all(MASK_FOLDER.fullmatch(name.lower()) for each in group.values() for name in each)
    ]  # fmt: skip
    return of_images[0] if len(of_images) == 1 else found


def split_groups(names: Sequence[str]) -> list[dict[Role, list[str]]]:
    """Names that are alike but for the word of a split, where one of them is for training:
    `pets_train` and `pets_test`; `trainA` and `testA`, `trainB` and `testB`."""
    groups: dict[tuple[str, str], dict[Role, list[str]]] = {}
    for name in names:
        for role, known in _ROLE_WITHIN.items():
            if named := known.fullmatch(name):
                key = named["before"].lower(), named["behind"].lower()
                groups.setdefault(key, {}).setdefault(role, []).append(name)
                break
    return [group for group in groups.values() if len(group) > 1 and "train" in group]


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
