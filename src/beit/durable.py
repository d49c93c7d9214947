"""Files that survive a loss of power: on the disk before anything relies on them.

A kill leaves what was written; a loss of power leaves only what was flushed, names of files and
folders no less than their contents. So a file is written under another name, flushed, renamed, and
the folder that holds the name is flushed too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from beit.errors import RunFolderError

PIECE = 8 * 2**20
"""Bytes that are hashed and written at a time: between two of them other threads get a turn."""


class Written(NamedTuple):
    """What a file must hold from now on."""

    bytes: int
    sha256: str


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> Written:
    """Write a file, flush it, and tell what is in it. Its name is durable once `flush` was called
    on its folder."""
    digest, total = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for piece in pieces:
            view = memoryview(piece)
            total += len(view)
            for start in range(0, len(view), PIECE):
                part = view[start : start + PIECE]
                digest.update(part)
                while part:
                    part = part[os.write(handle, part) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    return Written(total, digest.hexdigest())


def flush(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_free(out: Path, remedy: str) -> None:
    """Raise RunFolderError if something is there that results would be written over."""
    if out.is_dir() and any(out.iterdir()):
        raise RunFolderError(f"{out} exists and is not empty", remedy=remedy)
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} exists and is a file", remedy=remedy)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they do not exist yet."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush(folder.parent)


def replace_file(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file in place of an older one; at every moment one of the two is there, whole."""
    temporary = path.with_name(f".writing-{path.name}")
    try:
        write_file(temporary, pieces)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def replace_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its name; one that has it is removed once the new one is durable."""
    flush(temporary)
    replaced = final.with_name(f".replaced-{final.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    flush(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
