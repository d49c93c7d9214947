"""A claim: a place for results belongs to one process at a time, from before its work to its end.

Every verb that writes makes one. A claim is a lock that the kernel frees when its holder ends,
however it ends, so that another process can take over what a dead one left behind.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from beit.atomic_io import LONGEST, beside, flush, lock_file, make_folder
from beit.errors import (
    EXHAUSTED,
    FULL,
    BeitError,
    ConfigError,
    ResourceError,
    RunFolderError,
    refusal,
)

LOCK = "run.lock"
"""The locked file in a folder that is in use."""
UNFINISHED = ".writing-"
"""Prefix of the names of files that are not complete yet."""
ANOTHER = "choose another --out"
NO_ROOM = (*FULL, errno.EROFS, errno.EIO)
RUST_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust, such as safetensors, report what the system refused."""
LITTLE = 2**16
"""With fewer bytes free, an unknown failure of a library is attributed to a full disk."""


class Claim:
    """A lock on a place for results, held until it is released or the process ends.

    Raises:
        RunFolderError: Another process holds it.
        ResourceError: The place cannot be written to.
    """

    def __init__(self, lock: Path, place: Path, remedy: str = ANOTHER) -> None:
        self._lock, self._place = lock, place
        self._made: list[Path] = []
        try:
            self._made = _missing(lock.parent)
            make_folder(lock.parent)
            self._handle = self._locked(remedy)
        except (OSError, RunFolderError) as error:
            self._remove_empty()
            if isinstance(error, RunFolderError):
                raise
            raise _unwritable(place, refusal(error), remedy) from error

    def _locked(self, remedy: str) -> int:
        try:
            handle = lock_file(self._lock, wait=False)
        except BlockingIOError as error:
            holder = ""
            with suppress(OSError):
                holder = self._lock.read_text(errors="replace").strip()
            raise RunFolderError(
                f"{self._place} is in use by {holder[:200] or 'another process'}",
                remedy=f"wait for that to end, or {remedy}",
            ) from error
        with suppress(OSError):  # for people to read; a full disk is noticed soon enough
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        return handle

    def release(self) -> None:
        """Let other processes in."""
        if self._handle >= 0:
            self._lock.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1
            self._remove_empty()

    def _remove_empty(self) -> None:
        """Remove folders that were made for a result that was never written."""
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()


def is_free(folder: Path) -> bool:
    """Whether a folder holds nothing but what a claim or a killed process leaves behind."""
    return all(file.name == LOCK or file.name.startswith(UNFINISHED) for file in folder.iterdir())


@contextmanager
def claim_folder(folder: Path, remedy: str = ANOTHER) -> Iterator[None]:
    """Work in a folder, which is created if it does not exist.

    Raises:
        ConfigError: Its name is too long.
        RunFolderError: Another process is working there.
        ResourceError: It cannot be written to.
    """
    check_name(folder, remedy)
    claim = Claim(folder / LOCK, folder, remedy)
    try:
        yield
    finally:
        claim.release()


@contextmanager
def claim_output(
    place: Path, *, folder: bool = False, replaces: bool = False, remedy: str = ANOTHER
) -> Iterator[Path]:
    """A temporary path to write a result to, which is moved to its place when the block ends; after
    an error nothing is left.

    Args:
        place: Where the result belongs. It must be free.
        folder: The result is a folder, which may take the place of an empty one.
        replaces: The result may replace a file.
        remedy: What the user can do if the place is taken.

    Raises:
        ConfigError: The name of the place is too long.
        RunFolderError: The place is not free, or another process is writing there.
        ResourceError: It cannot be written to.
    """
    check_name(place, remedy)
    real = _real(place)
    if not real.name:
        raise RunFolderError(f"{place} is a whole disk", remedy=remedy)
    temporary = beside(real, "writing")
    claim = Claim(beside(real, "lock"), place, remedy)
    try:
        _check_free(place, folder, replaces, remedy)
        _remove(temporary)  # left by a process that was killed
        yield temporary
        _check_free(place, folder, replaces, remedy)
        _flush_all(temporary)
        temporary.replace(real)
        flush(real.parent)
    except BeitError:
        raise
    except Exception as error:
        problem = _no_room(error, real, temporary)
        if not problem:
            raise
        if isinstance(error, OSError) and error.errno in FULL:
            _check_temporary(error, real.parent)
        raise _unwritable(place, problem, remedy) from error
    finally:
        _remove(temporary)
        claim.release()


def _real(place: Path) -> Path:
    """The one path for a place that can be named in several ways, so that it has one claim."""
    if place.name in ("", ".."):
        return place.resolve()
    return place.parent.resolve() / place.name


def check_name(place: Path, remedy: str = ANOTHER) -> None:
    """Raise ConfigError if a name in the path is too long for any file system."""
    for name in place.parts:
        if len(os.fsencode(name)) > LONGEST:
            raise ConfigError(
                f"the name {name[:40]}... has {len(os.fsencode(name))} bytes, and file systems "
                f"take {LONGEST}",
                remedy=remedy,
            )


def _check_free(place: Path, folder: bool, replaces: bool, remedy: str) -> None:
    if place.is_dir():
        if not folder:
            raise RunFolderError(
                f"{place} exists and is a folder: nothing is overwritten", remedy=remedy
            )
        if not is_free(place):
            raise RunFolderError(
                f"{place} exists and is not empty: nothing is overwritten", remedy=remedy
            )
        if place.is_mount():
            raise RunFolderError(
                f"{place} is where a disk is mounted, and cannot be replaced as a whole",
                remedy=f"name a new folder in it: {place / 'result'}",
            )
    elif os.path.lexists(place) and not (replaces and place.is_file()):
        raise RunFolderError(f"{place} exists: nothing is overwritten", remedy=remedy)


def _no_room(error: Exception, place: Path, temporary: Path) -> str:
    """Why the operating system refused to write; empty if an error was about something else."""
    in_rust = RUST_ERROR.search(str(error))
    if in_rust:
        error = OSError(int(in_rust[1]), os.strerror(int(in_rust[1])), str(error))
    if isinstance(error, OSError):
        if error.errno in EXHAUSTED:
            return ""
        about = os.fsdecode(error.filename or "")
        named = place.name in about or temporary.name in about
        return refusal(error) if named or error.errno in NO_ROOM else ""
    full = place.parent.is_dir() and shutil.disk_usage(place.parent).free < LITTLE
    return os.strerror(errno.ENOSPC) if full else ""


def _check_temporary(error: OSError, folder: Path) -> None:
    """Raise ResourceError if it was a library's temporary files that had no room instead: they lie
    on another disk than the result, and that disk has less room left."""
    place = Path(tempfile.gettempdir())
    if place.stat().st_dev == folder.stat().st_dev:
        return
    if shutil.disk_usage(place).free < shutil.disk_usage(folder).free:
        raise ResourceError(
            f"{place}, where temporary files are written, has no room: {error.strerror}",
            remedy="make room there, or name a folder with room in the environment's TMPDIR",
        ) from error


def _unwritable(place: Path, problem: str, remedy: str) -> ResourceError:
    return ResourceError(
        f"{place} cannot be written to: {problem}",
        remedy=f"make room or permit writing, or {remedy}",
    )


def _missing(folder: Path) -> list[Path]:
    """The folder and those of its parents that do not exist, topmost first."""
    return [path for path in (*reversed(folder.parents), folder) if not path.exists()]


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _flush_all(path: Path) -> None:
    """Make a file, or everything in a folder, durable."""
    if not path.is_dir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        return
    for inner in path.iterdir():
        _flush_all(inner)
    flush(path)
