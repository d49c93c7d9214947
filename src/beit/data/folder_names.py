"""Recognises by name the folders and files that are splits, folds, images or masks, not classes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

Role = Literal["train", "val", "test"]

_WHAT = r"([ _-]?(set|data|dataset|images|imgs|split|[0-9]{1,4}))?"
"""What may follow the word for a split: training_set, train2017, test1."""
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
"""The same words within a longer name."""
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
"""The end of a mask's name, where masks lie among the images."""
_MASK_WORDS = re.compile(rf"(.*[^a-z])?{_MASKS}([^a-z].*)?|segmentation.*")
_LETTER = re.compile("[A-Za-z]")
LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")
_THINGS = (
    r"images?|imgs?|pictures?|pics?|photos?|photos from|frames?|files?|parts?|pt|batch|chunk|shard|"
    r"vol|volume|dis[ck]|archive|zip|tar|data|datasets?|folder|dir|download|subset"
)
_PART = re.compile(rf"((.*[^a-z])?({_THINGS}))[^a-z0-9]*(\d*|(?<=[^a-z])[a-z])[^a-z0-9]*")
"""Parts of a set: images_001, HAM10000_images_part_2, part_B, New folder (3), Photos from 2019."""
_DATE = re.compile(r"(19|20)\d\d[-_. ]?(0[1-9]|1[0-2])([-_. ]?[0-3]\d)?([-_ t].*)?")
_CAMERA = re.compile(r"[1-9]\d\d(?=.*[A-Z])[A-Z0-9_]{5}")
"""Folders that cameras and phones make: 100CANON, 101APPLE; but not the numbers of articles."""
_BAND = re.compile(
    r"b\d\d?a?|vv|vh|hh|hv|red|green|blue|nir\d*|swir\d*|rededge\d*|coastal|pan|tir\d*"
)
"""The end of the name of a file that holds a single band of an image: _B8A, _VV, _nir."""
FEWEST = 3
"""With fewer files or folders than this, a pattern in their names may be chance."""
MOST_BANDS = 32
"""Most files in a folder that may be the bands of one image."""


@lru_cache(maxsize=1024)
def split_called(name: str) -> Role | None:
    """The split that a name in any case stands for, `train`, `val` or `test`; else None."""
    word = name.strip().lower()
    return next((role for role, known in ROLES.items() if known.fullmatch(word)), None)


def split_name(name: str) -> str:
    """The split that a name stands for; other names as they are."""
    return split_called(name) or name


def split_above(path: str) -> Role | None:
    """The split of the first folder in a path whose name stands for one; None if none does."""
    return next(filter(None, map(split_called, path.split("/")[:-1])), None)


def split_named_by(words: Iterable[str]) -> Role | None:
    """The only split that any of these words names; None if they name none, or several."""
    named = {role for word in words if (role := split_called(word))}
    return named.pop() if len(named) == 1 else None


def splits_among(names: Sequence[str]) -> dict[Role, list[str]]:
    """The names that stand for each split: `train` or, if there is none of this kind, names that
    differ only in such a word, `pets_train` beside `pets_test`. Folders of masks are no splits."""
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
    """Groups of names that differ only in the word for a split, one of which is for training:
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
    """Folders of images, each with the folders of masks beside it, by their names: `images` and
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
    """The files among images that are masks by their names: `x_mask.png` beside `x.jpg` or, if all
    other names share an ending, beside `x_sat.jpg`; without such names `x.png` beside `x.jpg`, if
    every name has one of each."""
    stems = [path.rpartition(".")[0] for path in paths]
    named = {path: _MASK_FILE.sub("", path).rpartition(".")[0]
             for path in paths if _MASK_FILE.search(path)}  # fmt: skip
    if not named:
        return beside_every_jpeg(paths, ending=False)
    known = {*stems}
    found = {path for path, stem in named.items() if stem in known}
    others = [stem for path, stem in zip(paths, stems, strict=True) if path not in named]
    if not found and (ending := ending_of(others)):
        known = {stem.removesuffix(ending) for stem in others}
        found = {path for path, stem in named.items() if stem in known}
    return found


def beside_every_jpeg(paths: Sequence[str], *, ending: bool) -> set[str]:
    """The lossless files named after JPEG files, if every JPEG file has one: `x.png`; with `ending`
    those with more behind that name: `x_anything.png`, of which there may be several kinds."""
    pairs = [(path, path.rpartition(".")[0]) for path in paths]
    jpegs = {stem for path, stem in pairs if path.lower().endswith((".jpg", ".jpeg"))}
    by_ending: dict[str, set[str]] = {}
    for path, stem in pairs if 0 < len(jpegs) < len(paths) else ():
        more = behind(stem, jpegs) if path.lower().endswith(LOSSLESS) else None
        if more is not None and bool(more) == ending and (not ending or _LETTER.search(more)):
            by_ending.setdefault(more, set()).add(path)
    enough = len(jpegs) > 1 or (not ending and len(paths) == 2)  # one pair among more may be chance
    found = (files for files in by_ending.values() if enough and len(files) == len(jpegs))
    return {path for files in found for path in files}


def behind(stem: str, known: Container[str]) -> str | None:
    """What follows the known name that a name begins with, from a separator on: empty if it is that
    name, None if it begins with none."""
    if stem in known:
        return ""
    start = stem.rfind("/") + 1
    ends = [at for at in range(len(stem) - 2, start, -1) if stem[at] in "_-. "]
    return next((stem[at:] for at in ends if stem[:at] in known), None)


def looks_like_masks(name: str) -> bool:
    """Whether a word in the name of a folder suggests that it holds masks: `masks_png`."""
    return _MASK_WORDS.fullmatch(name.lower()) is not None


def are_called_after(
    files: Sequence[str], images: Sequence[str], *, strictly: bool, counted: bool = False
) -> bool:
    """Whether files are named after images: all have an image's name with more behind it, or the
    name of an image itself.

    Args:
        files: Names without extension.
        images: Names of the images, without extension.
        strictly: Whether names must match as they are; else a beginning and an ending that all
            files, or all images, share may differ.
        counted: Whether equal names are also accepted if they only count files (1, 2, 3, ...), as
            they do in many folders.
    """
    known = {*images}
    ends = [behind(stem, known) for stem in files]
    if all(ends):
        return True
    names = {*without_ends(images)}
    same = None not in ends or (not strictly and {*without_ends(files)} <= names)
    return same and (counted or not only_count(names))


def only_count(names: Collection[str]) -> bool:
    """Whether names only count files: 1, 2, 3, ..., from any number on."""
    if not all(map(str.isdecimal, names)):
        return False
    numbers = sorted(map(int, names))
    return numbers[-1] - numbers[0] == len(numbers) - 1


def ending_of(stems: Sequence[str]) -> str:
    """The last word, if all names share it, with the separator before it: `_sat`; else empty."""
    shared = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]  # noqa: RUF071 - of names
    found = re.search(r"[_. -](?=[^/]*[A-Za-z])[^/]*$", shared)
    return found[0] if found and len(stems) > 1 else ""


def without_ends(stems: Sequence[str]) -> list[str]:
    """Names without the beginning and the ending that all of them share; numbers stay whole."""
    begin, end = (
        re.sub(r"\d+$", "", os.path.commonprefix(each))  # noqa: RUF071 - of names
        for each in ([*stems], [stem[::-1] for stem in stems])
    )
    return [stem[len(begin) : len(stem) - len(end)] or stem for stem in stems]


def last_name(folder: str) -> str:
    """The name of a folder without those above it."""
    return folder.rpartition("/")[2]


def doubt(
    sizes: Mapping[str, int],
    files: Callable[[], Mapping[str, Sequence[str]]],
    *,
    in_splits: bool = False,
) -> str:
    """What folders that may be classes may be instead, as the end of a sentence; empty if nothing
    else is plausible.

    Args:
        sizes: The number of images in each folder.
        files: Lists the images of each folder, relative to it and without extension; called only if
            necessary, as there may be millions.
        in_splits: Whether the same folders are in several splits: then folders with a single image
            each are plausible classes.
    """
    names = [last_name(folder) for folder in sizes]
    if len(names) < 2:
        return ""
    parts = [_PART.fullmatch(name.lower()) for name in names]
    if len({part and part[1] for part in parts}) == 1 and parts[0]:
        return "the parts of one set, by their names"
    lower = [name.lower() for name in names]
    if all(map(_DATE.fullmatch, lower)) or all(map(_CAMERA.fullmatch, names)):
        return "the dates or camera folders of photographs"
    alike = len({*sizes.values()}) == 1
    if {*sizes.values()} == {1} and len(sizes) > FEWEST and not in_splits:
        return "folders of a single image each"
    if alike or max(sizes.values()) <= MOST_BANDS:
        found = list(files().values())
        if all(map(_are_bands, found)):
            return "single images, with their bands in files of their own"
        if alike and _are_views(found):
            return "views of the same images: their files have the same names"
    return ""


def _are_bands(stems: Sequence[str]) -> bool:
    ends = {re.split(r"[_.\- /]", stem.lower())[-1] for stem in stems}
    return len(ends) > 1 and all(map(_BAND.fullmatch, ends))


def _are_views(found: Sequence[Sequence[str]]) -> bool:
    """Whether folders hold files of the same names, apart from a beginning and an ending of each
    folder's own; numbers that only count the files do not matter."""
    names = [{*without_ends(stems)} for stems in found]
    if len(names[0]) < FEWEST or any(each != names[0] for each in names):
        return False
    return not only_count(names[0])
