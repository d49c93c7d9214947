"""Which images a run learns from, kept with it and compared when it goes on."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from beit.atomic_io import replace_file
from beit.errors import DataError
from beit.training.run_folder import RunFolder

NAMED = 3


class Listing(NamedTuple):
    """The images of a run: a fingerprint of names, sizes, labels and contents, and the
    names."""

    fingerprint: str
    keys: Callable[[], Iterable[str]]


def remember(folder: RunFolder, listing: Listing) -> None:
    """Write the names, so that a later difference can be told; those of before that are not among
    them go to a file of their own, since the run may have learned from those images, too."""
    names = list(listing.keys())
    before = recall(folder.images)
    gone = {*(before or ())} - {*names} if before != names else set()
    if gone:
        _write(folder.left_images, sorted(gone.union(recall(folder.left_images) or ())))
    _write(folder.images, names)


def _write(file: Path, names: list[str]) -> None:
    """Each name ends with NUL, the one character that no name of a file holds."""
    data = "".join(f"{name}\0" for name in names).encode("utf-8", "surrogateescape")
    replace_file(file, [gzip.compress(data, 6, mtime=0)])


def learned_names(folder: RunFolder) -> frozenset[str] | None:
    """The names of all images that a run learned from; None if they cannot be had."""
    names = recall(folder.images)
    return None if names is None else frozenset(names).union(recall(folder.left_images) or ())


def check_unchanged(file: Path, before: str, listing: Listing) -> None:
    """Raise DataError, with what was added, removed or altered, if the images are others now."""
    if before == listing.fingerprint:
        return
    raise DataError(
        f"the images are not those the run has learned from: {_difference(file, listing)}",
        remedy="bring them back as they were, start a new run, or go on with the images as they "
        "are with --accept-changed-data: it will not equal an uninterrupted run",
    )


def recall(file: Path) -> list[str] | None:
    """The names that were written; None if they are not there, or damaged."""
    try:
        data = gzip.decompress(file.read_bytes())
        text = data.decode("utf-8", "surrogateescape")
        # Older runs have one name per line.
        return text[:-1].split("\0") if text.endswith("\0") else text.split("\n")
    except (OSError, EOFError, ValueError, zlib.error):
        return None


def _difference(file: Path, listing: Listing) -> str:
    old = recall(file)
    if old is None:
        return "their list has another fingerprint"
    new = list(listing.keys())
    added, removed = sorted({*new} - {*old}), sorted({*old} - {*new})
    parts = [
        f"{len(names)} {word} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for word, names in (("added", added), ("removed", removed))
        if names
    ]
    return ", ".join(parts) or "the same names, but other sizes, contents, labels or order"
