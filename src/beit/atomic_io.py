"""Files that survive a power failure: they are on the disk before anything relies on them.

After a kill, everything that was written is still there; after a power failure, only what was
flushed, and that holds for the names of files and folders as for their contents. So a file is
written under a temporary name, flushed and renamed, and then the folder that holds the name is
flushed too.
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
"""Bytes hashed and written at a time; between two pieces other threads get a turn."""
LONGEST = 255
"""Most bytes that file systems accept in a name."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def cache_dir() -> Path:
    """The folder of downloads and indexes that all runs share: `$BEIT_HOME`, or `~/.cache/beit`.

    Raises:
        ConfigError: No home folder is known, as for an arbitrary user id in a container.
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
    """The path with `~` and `~user` replaced, if that home folder is known."""
    with suppress(RuntimeError):
        return Path(place).expanduser()
    return Path(place)


class Written(NamedTuple):
    """Size and digest of a written file, to compare it with later."""

    bytes: int
    sha256: str


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> Written:
    """Write a file and flush its contents; return their size and digest.

    The name of the file is durable only once `flush` has been called on its folder.
    """
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
    """A hidden path in the same folder with the same suffix, its name at most 255 bytes long."""
    name = f".{purpose}-{path.name}"
    if len(os.fsencode(name)) > LONGEST:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]
        name = f".{purpose}-{digest}{path.suffix[:20]}"
    return path.with_name(name)


def make_folder(folder: Path) -> None:
    """Create a folder and any missing parents, and make their names durable."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush(folder.parent)


def replace_file(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file in place of an older one; at any moment one of the two is there, complete.

    Processes that do so at the same time take turns, and the file of the last one stays.
    """
    temporary = beside(path, "writing")
    handle = lock_file(temporary)
    try:
        write_file(temporary, pieces)
        temporary.replace(path)
    except BaseException:  # a request to stop, too, must leave nothing behind
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    flush(path.parent)


def lock_file(path: Path, *, wait: bool = True) -> int:
    """Open a file and lock it against other processes; closing the handle unlocks it.

    The file is created if needed. On a file system without locks it is only opened, with a warning.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is false.
        OSError: The file cannot be opened.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                if error.errno == errno.EACCES:  # for a lock that is held, on some systems
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
        os.close(handle)  # its holder renamed or removed it: the name is another file's now


def replace_folder(temporary: Path, final: Path) -> None:
    """Move a finished folder to its final path.

    A folder that is already there is removed once the new one is durable.
    """
    flush(temporary)
    replaced = beside(final, "replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    flush(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
