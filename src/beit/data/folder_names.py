"""What folders and files are called that are splits, folds, images and masks, and no classes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
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
_MASK_WORDS = re.compile(rf"(.*[^a-z])?{_MASKS}([^a-z].*)?|segmentation.*")
_LETTER = re.compile("[A-Za-z]")
LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")
_THINGS = (
    r"images?|imgs?|pictures?|pics?|photos?|photos from|frames?|files?|parts?|pt|batch|chunk|shard|"
    r"vol|volume|dis[ck]|archive|zip|tar|data|datasets?|folder|dir|download|subset"
)
_PART = re.compile(rf"((.*[^a-z])?({_THINGS}))[^a-z0-9]*(\d*|(?<=[^a-z])[a-z])[^a-z0-9]*")
"""images_001, HAM10000_images_part_2, part_B, New folder (3), Photos from 2019."""
_DATE = re.compile(r"(19|20)\d\d[-_. ]?(0[1-9]|1[0-2])([-_. ]?[0-3]\d)?([-_ t].*)?")
_CAMERA = re.compile(r"[1-9]\d\d(?=.*[A-Z])[A-Z0-9_]{5}")
"""What cameras and phones call folders: 100CANON, 101APPLE; not the numbers of articles."""
_BAND = re.compile(
    r"b\d\d?a?|vv|vh|hh|hv|red|green|blue|nir\d*|swir\d*|rededge\d*|coastal|pan|tir\d*"
)
"""How the files of single bands of an image end: _B8A, _VV, _nir."""
FEWEST = 3
"""Files of the same names in so many of each folder are no chance."""
MOST_BANDS = 32


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
    """The files among images that are masks by their names: `x_mask.png` beside `x.jpg`, or where
    all other names end alike beside `x_sat.jpg`; or, where there is one of either for every name,
    `x.png` beside `x.jpg`."""
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
    """The lossless files of the names of JPEG files, where every one has its own: `x.png`; or, with
    more at their `ending`, `x_anything.png`, of which there may be several kinds."""
    pairs = [(path, path.rpartition(".")[0]) for path in paths]
    jpegs = {stem for path, stem in pairs if path.lower().endswith((".jpg", ".jpeg"))}
    by_ending: dict[str, set[str]] = {}
    for path, stem in pairs if 0 < len(jpegs) < len(paths) else ():
        more = behind(stem, jpegs) if path.lower().endswith(LOSSLESS) else None
        if more is not None and bool(more) == ending and (not ending or _LETTER.search(more)):
            by_ending.setdefault(more, set()).add(path)
    enough = len(jpegs) > 1 or (not ending and len(paths) == 2)  # one pair among others is chance
    found = (files for files in by_ending.values() if enough and len(files) == len(jpegs))
    return {path for files in found for path in files}


def behind(stem: str, known: Container[str]) -> str | None:
    """What a name has behind a known one that it begins with, from a sign on; None if with none."""
    if stem in known:
        return ""
    start = stem.rfind("/") + 1
    ends = [at for at in range(len(stem) - 2, start, -1) if stem[at] in "_-. "]
    return next((stem[at:] for at in ends if stem[:at] in known), None)


def looks_like_masks(name: str) -> bool:
    """Whether a word in the name of a folder says that it may hold masks: `masks_png`."""
    return _MASK_WORDS.fullmatch(name.lower()) is not None


def are_called_after(
    files: Sequence[str], images: Sequence[str], *, strictly: bool, counted: bool = False
) -> bool:
    """Whether all files have the name of an image with more behind it; or the same name, or unless
    `strictly` one that differs in what all of a side share at their ends: names that only count
    files, as those of many folders do, if they may be `counted`."""
    known = {*images}
    ends = [behind(stem, known) for stem in files]
    if all(ends):
        return True
    names = {*without_ends(images)}
    same = None not in ends or (not strictly and {*without_ends(files)} <= names)
    return same and (counted or not only_count(names))


def only_count(names: Collection[str]) -> bool:
    """Whether names are nothing but 1, 2, 3, ..."""
    if not all(map(str.isdecimal, names)):
        return False
    numbers = sorted(map(int, names))
    return numbers[-1] - numbers[0] == len(numbers) - 1


def ending_of(stems: Sequence[str]) -> str:
    """The last word that all names share, with the sign before it: `_sat`; empty if none."""
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

    `sizes` are how many images each holds, `files` lists them, relative to their folder and without
    extension: only if it must, as there may be millions. Folders that several splits have, too, are
    not those of single images.
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
    """Whether folders hold files of the same names, but for a beginning and an ending that each has
    of its own; numbers that only count the files are no names."""
    names = [{*without_ends(stems)} for stems in found]
    if len(names[0]) < FEWEST or any(each != names[0] for each in names):
        return False
    return not only_count(names[0])
