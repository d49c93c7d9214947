"""Images that lie in several class folders, as links or as copies: each is one with all labels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from beit.data.sources import FileSource, is_multi_label

CHUNK = 2**20


def merge_copies(source: FileSource) -> FileSource:
    """The images of class folders, each once, with the classes of all folders that hold it.

    Files are the same image if they are one file (links of either kind) or have the same content,
    whatever their names. It is known by its first name. The account says how many files there were.
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
        f"{len(source)} files in class folders are {len(groups)} images, "
        f"of which {several} have several labels"
    ]
    words += [f"{again} files repeat another of the same class"] if again else []
    return source.relabelled([members[0] for members in groups], labels, "; ".join(words))


def _same_files(source: FileSource) -> list[list[int]]:
    """The indices of the same image together, in the order of the first of each."""
    by_file: dict[object, list[int]] = defaultdict(list)
    for index in range(len(source)):
        by_file[_identity(source.path(index), index)].append(index)
    by_size: dict[int, list[list[int]]] = defaultdict(list)
    for members in by_file.values():
        by_size[source.size(members[0])].append(members)
    groups: list[list[int]] = []
    for size, files in by_size.items():
        if size < 0 or len(files) == 1:
            groups += files
            continue
        by_content: dict[object, list[int]] = defaultdict(list)
        for members in files:
            by_content[_content(source.path(members[0]), members[0])] += members
        groups += map(sorted, by_content.values())
    return sorted(groups)


def _identity(path: Path, index: int) -> object:
    """What the links to a file have in common; of one that is gone, nothing."""
    try:
        found = path.stat()
    except OSError:
        return index
    return (found.st_dev, found.st_ino) if found.st_ino else index


def _content(path: Path, index: int) -> object:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError:
        return index
    return digest.digest()
