"""Which pictures a run learns from, kept with it and compared when it goes on."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from beit.durable import replace_file
from beit.errors import DataError

NAMED = 3


class Listing(NamedTuple):
    """The pictures of a run: a fingerprint of names, sizes, labels and contents, and the
    names."""

    fingerprint: str
    keys: Callable[[], Iterable[str]]


def remember(file: Path, listing: Listing) -> None:
    """Write the names, so that a later difference can be told."""
    text = "\n".join(listing.keys()).encode()
    replace_file(file, [gzip.compress(text, 6, mtime=0)])


def check_unchanged(file: Path, before: str, listing: Listing) -> None:
    """Raise DataError, with what was added, removed or altered, if the pictures are others now."""
    if before == listing.fingerprint:
        return
    raise DataError(
        f"the pictures are not those the run has learned from: {_difference(file, listing)}",
        remedy="bring them back as they were, start a new run, or go on with the pictures as they "
        "are with --accept-changed-data: it will not equal an uninterrupted run",
    )


def _difference(file: Path, listing: Listing) -> str:
    try:
        old = gzip.decompress(file.read_bytes()).decode().split("\n")
    except (OSError, EOFError, ValueError):
        return "their list has another fingerprint"
    new = list(listing.keys())
    added, removed = sorted({*new} - {*old}), sorted({*old} - {*new})
    parts = [
        f"{len(names)} {word} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for word, names in (("added", added), ("removed", removed))
        if names
    ]
    return ", ".join(parts) or "the same names, but other sizes, contents, labels or order"
