"""Whole shards from object storage on a local disk: bounded, shared by all processes of a machine.

Each is fetched in one request by whoever needs it first; the others wait for its lock. A shard that
is there is whole: it gets its name once it is verified. What a crash leaves unfinished is locked by
nobody and goes with the next shard that needs room. Shards in use are locked by those who use them;
of the others the one that was used longest ago goes first.
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
"""Behind the name of a shard: held by who fetches it, and what has come of it."""
GIGABYTE = 10**9
TRIES = 3
"""How often a shard is fetched again for a reader from whom it was taken at once."""


class Shard(NamedTuple):
    """A shard in object storage."""

    place: str
    size: int
    sha256: str
    """Of the whole shard; empty if its index does not say it."""

    @property
    def name(self) -> str:
        """Under which it is kept: another version of it has another one."""
        about = f"{self.place}\0{self.size}\0{self.sha256}".encode("utf-8", "surrogateescape")
        return f"{hashlib.blake2b(about, digest_size=16).hexdigest()}.{self.size}"


class ShardCache:
    """A folder of shards, of at most `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._warned = False

    @classmethod
    def at(cls, folder: str, gigabytes: float | None) -> ShardCache:
        """The cache in a folder, by default in `$BEIT_HOME`, made if need be; its limit is by
        default half of what is free there besides what it holds.

        Errors: ConfigError if it cannot be written to.
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
        """Where it lies if it is there."""
        return self.folder / shard.name

    def read(self, shard: Shard, start: int, length: int) -> bytes:
        """Part of a shard, which is fetched if it is not there; from storage if there is no room.

        Errors: OSError if not all of it can be had.
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
        """Have the shard here; False if there is no room for it. Waits for others who fetch it.

        Errors: OSError if it cannot be fetched, or is not what its index says.
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
        """Remove what is unfinished and left, and as many unused shards as necessary."""
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
        """Have the shard here, and keep it until `release`; None if there is no room for it.

        Errors: OSError if it cannot be fetched.
        """
        while self.fetch(shard):
            with suppress(FileNotFoundError):
                handle = os.open(self.path(shard), os.O_RDONLY)
                fcntl.flock(handle, fcntl.LOCK_SH)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle), self.path(shard).stat()):
                        return handle
                os.close(handle)  # it was removed between the two
        return None

    def release(self, handle: int) -> None:
        """Let go of a shard, which was used until now."""
        os.utime(handle)
        os.close(handle)


class _Entry(NamedTuple):
    path: Path
    size: int
    """Bytes it has, or will have once it is fetched."""
    used: float
    fetched: bool
    """Whether it is the lock of a shard that is being fetched, or was until a crash."""


def _entries(folder: Path) -> Iterator[_Entry]:
    for path in folder.iterdir():
        name = path.name.removesuffix(LOCK)
        with suppress(FileNotFoundError, ValueError):
            size = int(name.rpartition(".")[2])
            yield _Entry(path, size, path.stat().st_mtime, name != path.name)


def _removed(path: Path) -> bool:
    """Remove a shard or a lock, with what came behind it, unless somebody holds it."""
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
