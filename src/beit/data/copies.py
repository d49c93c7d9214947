"""Finds images that occur several times: in several class folders, or in two parts of the data."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import numpy as np

from beit.data.listing import short_hash
from beit.data.sources import FileSource, ImageSource, is_multi_label, spread
from beit.errors import UnreadableError
from beit.terminal import counted

SOUGHT = 1024
"""Most validation images whose copies are looked for; of more, a sample."""
SIZED = 100_000
"""Most training images whose sizes are compared; of more, a sample."""
READ = 2048
"""Most training images that are read because a validation image has the same size."""


def merge_copies(source: FileSource) -> FileSource:
    """The images of class folders, each once, with the classes of all folders that hold it.

    Files are the same image if they are one file (links of either kind) or have the same content,
    whatever their names. The image keeps the first of these names, and the account says how many
    files there were.
    """
    targets = source.targets
    if targets is None or is_multi_label(source):
        return source
    groups = _same_files(source)
    labels = np.zeros((len(groups), len(source.classes)), np.bool_)
    for row, members in enumerate(groups):
        labels[row, targets[members]] = True
    several = int((labels.sum(axis=1) > 1).sum())
    again = len(source) - int(labels.sum())
    words = [
        f"{counted(len(source), 'file')} in class folders are {counted(len(groups), 'image')}, "
        f"of which {several} have several labels"
    ]
    words += [f"{again} files repeat another of the same class"] if again else []
    return source.relabelled([members[0] for members in groups], labels, "; ".join(words))


def _same_files(source: FileSource) -> list[list[int]]:
    """Groups of indices that are the same image, in the order of their first members."""
    files = _grouped(range(len(source)), lambda index: _identity(source.path(index)))
    firsts = {members[0]: members for members in files}
    groups = []
    for alike in _grouped(firsts, lambda index: _known_size(source, index)):
        same = _grouped(alike, lambda index: _digest(source.path(index))) if alike[1:] else [alike]
        groups += [sorted(at for first in each for at in firsts[first]) for each in same]
    return sorted(groups)


def _known_size(source: FileSource, index: int) -> int | None:
    size = source.size(index)
    return size if size >= 0 else None


def _grouped(indices: Iterable[int], key: Callable[[int], Hashable | None]) -> list[list[int]]:
    """Groups of indices with the same key; each whose key is None is a group of its own."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index in indices:
        found = key(index)
        groups[("alone", index) if found is None else found].append(index)
    return list(groups.values())


def _identity(path: Path) -> Hashable | None:
    """What all links to a file have in common; None for a file that is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else None


def _digest(path: Path) -> Hashable | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return None


def shared_images(learned: ImageSource, judged: ImageSource) -> dict[str, str]:
    """Training images that are validation images as well, which makes scores too high.

    Nothing is decoded, and only files with a size that occurs in the other part are read. Of large
    data a sample is compared, spread evenly over either part.

    Returns:
        The key of each such training image, with that of a validation image of the same bytes.
    """
    looked_for, there = spread(len(judged), SOUGHT), spread(len(learned), SIZED)
    sizes = np.array([judged.size(index) for index in looked_for])
    candidates = np.array([learned.size(index) for index in there])
    alike = np.flatnonzero(np.isin(candidates, sizes[sizes >= 0]))
    alike = alike[spread(len(alike), READ)]
    read = [looked_for[at] for at in np.flatnonzero(np.isin(sizes, candidates[alike]))]
    known = {_content(judged, index): judged.key(index) for index in read}
    known.pop(None, None)
    found = {learned.key(there[at]): _content(learned, there[at]) for at in alike}
    return {key: known[content] for key, content in found.items() if content in known}


def _content(source: ImageSource, index: int) -> int | None:
    """The hash of the encoded image, or None if it cannot be read."""
    try:
        return short_hash(source.read(index).data)
    except UnreadableError:
        return None
