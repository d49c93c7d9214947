"""Files that survive a loss of power: on the disk before anything relies on them.

A kill leaves what was written; a loss of power leaves only what was flushed, names of files and
folders no less than their contents. So a file is written under another name, flushed, renamed, and
the folder that holds the name is flushed too.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from beit.errors import ConfigError

logger = logging.getLogger(__name__)

PIECE = 8 * 2**20
"""Bytes that are hashed and written at a time: between two of them other threads get a turn."""
LONGEST = 255
"""Bytes of a name that file systems take."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def cache_dir() -> Path:
    """Where downloads and indexes are kept for all runs: `$BEIT_HOME`, or `~/.cache/beit`.

    Raises ConfigError where no home folder is known, as in a container for a user of its own.
    """
    named = os.environ.get("BEIT_HOME") or "~/.cache/beit"
    place = from_home(named)
    if named.startswith("~") and str(place).startswith("~"):
        raise ConfigError(
            f"there is no place for downloads and indexes: no home folder is known for {named}",
            remedy="name a folder in the environment's BEIT_HOME",
        )
    return place


def from_home(place: str) -> Path:
    """The path with `~` and `~user` replaced, where that home folder is known."""
    with suppress(RuntimeError):
        return Path(place).expanduser()
    return Path(place)


class Written(NamedTuple):
    """What a file must hold from now on."""

    bytes: int
    sha256: str


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> Written:
    """Write a file and flush it; returns what it holds. Its name is durable once `flush` was called
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


def beside(path: Path, purpose: str) -> Path:
    """A hidden name in the same folder, with the same ending, of at most 255 bytes."""
    name = f".{purpose}-{path.name}"
    if len(os.fsencode(name)) > LONGEST:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]
        name = f".{purpose}-{digest}{path.suffix[:20]}"
    return path.with_name(name)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they do not exist yet."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush(folder.parent)


def replace_file(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file in place of an older one; at every moment one of the two is there, whole.

    Of several processes that do so at once, each writes the whole of it: the last one's stays.
    """
    temporary = beside(path, "writing")
    handle = lock_file(temporary)
    try:
        write_file(temporary, pieces)
        temporary.replace(path)
    except BaseException:  # a request to stop, too, leaves nothing
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    flush(path.parent)


def lock_file(path: Path, *, wait: bool = True) -> int:
    """Open a file, made if need be, that no other process has locked; closing it unlocks it.

    On a file system without locks it is merely opened. Raises BlockingIOError if the file is locked
    and the caller does not `wait`; any other OSError if it cannot be opened.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                if error.errno == errno.EACCES:  # of a lock that is held, on some systems
                    raise BlockingIOError(errno.EWOULDBLOCK, error.strerror) from error
                raise
            logger.warning(
                "the file system of %s has no locks: make sure that no other process writes there",
                path.parent,
            )
            return handle
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # who had it has renamed or removed it: the name is another file's now


def replace_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its name; one that has it is removed once the new one is durable."""
    flush(temporary)
    replaced = beside(final, "replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    flush(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
