"""Which folders may be the classes; and what else they may be: parts, dates, views, bands."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from beit.data.folder_names import last_name, only_count, without_ends
from beit.data.image_names import composed
from beit.data.layout import FolderTree
from beit.data.listing import natural_key

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


def names_at(tree: FolderTree, folder: str, level: int) -> list[str]:
    """The classes that folders so many levels below a split stand for, in natural order."""
    filled = [each for each in tree.below(folder, level) if tree.total(each)]
    return sorted({composed(last_name(each)) for each in filled}, key=natural_key)


def class_levels(tree: FolderTree, folder: str) -> dict[int, list[str]]:
    """The levels of folders below a split that may be its classes, with their names.

    Those at which there are two names or more, down to the first folder with images of its own, or
    one deeper if others beside it have none, but several folders; and the second level, where all
    folders of the first hold the same ones.
    """
    deepest, here = 0, tree.filled(folder)
    while here:
        deepest += 1
        if any(map(tree.direct, here)):
            divided = (not tree.direct(each) and len(tree.filled(each)) > 1 for each in here)
            deepest += any(divided)
            break
        here = [child for each in here for child in tree.filled(each)]
    tops = tree.filled(folder)
    inside = [{composed(last_name(each)) for each in tree.filled(top)} for top in tops]
    if len(tops) > 1 and len(inside[0]) > 1 and all(each == inside[0] for each in inside):
        deepest = max(deepest, 2)
    found = {level: names_at(tree, folder, level) for level in range(1, deepest + 1)}
    return {level: names for level, names in found.items() if len(names) > 1}


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
