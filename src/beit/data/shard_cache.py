"""Keeps whole shards from object storage on a local disk, up to a limit, for all processes of a
machine.

The process that needs a shard first fetches it in one request; the others wait for its lock. A
shard gets its name only once it is verified, so every shard that is there is whole. What a crash
left unfinished is locked by no process, and is removed when the next shard needs room. Shards in
use are locked by the processes that use them; of the others, the least recently used go first.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from beit.atomic_io import cache_dir, lock_file
from beit.data.storage import download, read_range
from beit.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK, UNFINISHED = ".lock", ".part"
"""Suffixes to the name of a shard: of the file that the process which fetches it has locked, and of
the part that it has written."""
GIGABYTE = 10**9
TRIES = 3
"""How often a shard is fetched for one reader if it is removed each time before it can be read."""


class Shard(NamedTuple):
    """A shard in object storage."""

    place: str
    size: int
    sha256: str
    """The hash of the whole shard; empty if its index lacks it."""

    @property
    def name(self) -> str:
        """The name of its file in the cache, which is different for each version of the shard."""
        about = f"{self.place}\0{self.size}\0{self.sha256}".encode("utf-8", "surrogateescape")
        return f"{hashlib.blake2b(about, digest_size=16).hexdigest()}.{self.size}"


class ShardCache:
    """A folder of shards that together have at most `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._warned = False

    @classmethod
    def at(cls, folder: str, gigabytes: float | None) -> ShardCache:
        """The cache in a folder, by default in `$BEIT_HOME`, which is made if it is not there. Its
        limit is by default half of the sum of what it holds and the free space of its disk.

        Raises:
            ConfigError: The folder cannot be written to.
        """
        place = Path(folder) if folder else cache_dir() / "whole-shards"
        try:
            place.mkdir(parents=True, exist_ok=True)
            os.close(lock_file(place / "room.lock"))
        except OSError as error:
            raise ConfigError(
                f"shards cannot be kept in {place}: {error.strerror or error}",
                remedy="name a folder on a local disk with --cache-dir",
            ) from error
        held = sum(entry.size for entry in _entries(place))
        free = shutil.disk_usage(place).free + held
        return cls(place, free // 2 if gigabytes is None else int(gigabytes * GIGABYTE))

    def path(self, shard: Shard) -> Path:
        """Where the shard lies if it is in the cache."""
        return self.folder / shard.name

    def read(self, shard: Shard, start: int, length: int) -> bytes:
        """Read a part of a shard, which is fetched first if it is not in the cache. If there is no
        room for it, the part is read from object storage.

        Args:
            shard: The shard.
            start: The first byte.
            length: The number of bytes.

        Raises:
            OSError: Not all of the bytes can be read.
        """
        for _ in range(TRIES):
            with suppress(FileNotFoundError):
                return read_range(str(self.path(shard)), start, length)
            if not self.fetch(shard):
                break
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s has no room for all shards that are needed at once: some images are fetched "
                "one by one; give more with --cache-size (%.1f GB now)",
                self.folder, self.limit / GIGABYTE,
            )  # fmt: skip
        return read_range(shard.place, start, length)

    def fetch(self, shard: Shard) -> bool:
        """Make sure that the shard is in the cache; False if there is no room for it. Waits if
        another process is fetching it.

        Raises:
            OSError: It cannot be fetched, or is not what its index says.
        """
        path = self.path(shard)
        if path.exists():
            return True
        lock, unfinished = (path.with_name(path.name + end) for end in (LOCK, UNFINISHED))
        handle = lock_file(lock)
        try:
            if path.exists():
                return True
            if shard.size > self.limit or not self._make_room(shard.size, lock):
                return False
            self._download(shard, unfinished)
            unfinished.rename(path)
            return True
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        finally:
            unfinished.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            os.close(handle)

    def _download(self, shard: Shard, to: Path) -> None:
        download(shard.place, to)
        with to.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            sha256 = hashlib.file_digest(file, "sha256").hexdigest() if shard.sha256 else ""
            os.fsync(file.fileno())
        if size != shard.size or sha256 != shard.sha256:
            raise OSError(f"{shard.place} is not what its index says: it has changed or is damaged")

    def _make_room(self, size: int, own: Path) -> bool:
        """Remove what crashes left unfinished, and as many unused shards as necessary; whether that
        was enough."""
        with self._alone():
            entries = sorted(
                (entry for entry in _entries(self.folder) if entry.path != own),
                key=lambda entry: (not entry.fetched, entry.used),
            )
            total = sum(entry.size for entry in entries) + size
            for entry in entries:
                if not entry.fetched and total <= self.limit:
                    break
                if _removed(entry.path):
                    total -= entry.size
        return total <= self.limit

    @contextmanager
    def _alone(self) -> Iterator[None]:
        handle = lock_file(self.folder / "room.lock")
        try:
            yield
        finally:
            os.close(handle)

    def pin(self, shard: Shard) -> int | None:
        """Fetch the shard if necessary, and keep it until its handle, which is returned, is passed
        to `release`. None if there is no room for it.

        Raises:
            OSError: It cannot be fetched.
        """
        while self.fetch(shard):
            with suppress(FileNotFoundError):
                handle = os.open(self.path(shard), os.O_RDONLY)
                fcntl.flock(handle, fcntl.LOCK_SH)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle), self.path(shard).stat()):
                        return handle
                os.close(handle)  # the shard was removed before it could be locked
        return None

    def release(self, handle: int) -> None:
        """Allow a pinned shard to be removed; it counts as used until now."""
        os.utime(handle)
        os.close(handle)


class _Entry(NamedTuple):
    path: Path
    size: int
    """The bytes of the shard, now or once it is fetched."""
    used: float
    fetched: bool
    """Whether the entry is the lock of a shard that is being fetched, or was until a crash."""


def _entries(folder: Path) -> Iterator[_Entry]:
    for path in folder.iterdir():
        name = path.name.removesuffix(LOCK)
        with suppress(FileNotFoundError, ValueError):
            size = int(name.rpartition(".")[2])
            yield _Entry(path, size, path.stat().st_mtime, name != path.name)


def _removed(path: Path) -> bool:
    """Remove a shard, or a lock with the unfinished shard, unless a process holds it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        path.with_name(path.name.removesuffix(LOCK) + UNFINISHED).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)
