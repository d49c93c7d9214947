"""Files on this machine or in object storage: finds them, and reads them whole or in part.

Addresses such as s3://bucket/name and https://host/name go through fsspec, which is optional.
"""

from __future__ import annotations

import errno
import glob
import importlib
import inspect
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from beit.data.listing import natural_key
from beit.errors import ConfigError, DataError, optional_library
from beit.terminal import quoted

TRIES = 5
PAUSE_SECONDS = 0.5
MOST_PLACES = 1_000_000
MARKS = ("ETag", "etag", "LastModified", "Last-Modified", "last_modified", "mtime", "updated")

_OPENED: dict[int, Any] = {}
"""Every file system that was opened, so that none is ever freed: if a forked process frees one, its
connections are closed and removed from the parent's event loop, which then waits for ever."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")


class Stamp(NamedTuple):
    """Identifies the version of a file: it differs once the file has changed."""

    size: int
    mark: str
    """The time of the last change, or the server's identifier of the version."""


def is_remote(place: str) -> bool:
    """Whether this is an address and not a path."""
    return "://" in place


def _file_system(place: str) -> tuple[Any, str]:
    """The file system of an address, one per process, and the path in it."""
    missing = f"{place} is in object storage, and a library for it is not installed"
    with optional_library(missing, "remote"):  # fsspec itself, or that of one kind of storage
        try:
            file_system, path = importlib.import_module("fsspec.core").url_to_fs(place)
        except ValueError as error:
            raise ConfigError(
                f"{place} is not an address that can be read: {error}",
                remedy="use s3://, gs:// or https://",
            ) from error
    _OPENED[id(file_system)] = file_system
    return file_system, path


def stamp(place: str) -> Stamp:
    """The stamp of a file's present version. Raises OSError if there is no such file."""
    if not is_remote(place):
        status = Path(place).stat()
        return Stamp(status.st_size, str(status.st_mtime_ns))
    file_system, path = _file_system(place)
    info = _tried(place, lambda: file_system.info(path))
    if info.get("size") is None:
        raise OSError(f"the server of {place} does not say how large it is")
    return Stamp(int(info["size"]), " ".join(str(info[mark]) for mark in MARKS if mark in info))


def read_range(place: str, start: int, length: int) -> bytes:
    """Read a part of a file.

    Args:
        place: A path or an address.
        start: The first byte.
        length: The number of bytes.

    Raises:
        OSError: Not all of the bytes can be read.
    """
    if is_remote(place):
        file_system, path = _file_system(place)
        data: bytes = _tried(
            place, lambda: file_system.cat_file(path, start=start, end=start + length)
        )
    else:
        with Path(place).open("rb") as file:
            data = os.pread(file.fileno(), length, start)
    if len(data) != length:
        raise OSError(f"{len(data)} bytes came instead of {length}")
    return data


def read_all(place: str) -> bytes:
    """The content of a file. Raises OSError if it cannot be read."""
    if not is_remote(place):
        return Path(place).read_bytes()
    file_system, path = _file_system(place)
    data: bytes = _tried(place, lambda: file_system.cat_file(path))
    return data


def download(place: str, to: Path) -> None:
    """Download a whole file from an address, in one request if its storage allows that.

    Raises:
        OSError: It cannot be read or written.
    """
    file_system, path = _file_system(place)
    known = inspect.signature(getattr(file_system, "_get_file", file_system.get_file)).parameters
    # s3fs would divide the request; several shards are fetched in parallel anyway.
    whole = {"max_concurrency": 1} if "max_concurrency" in known else {}
    _tried(place, lambda: file_system.get_file(path, str(to), **whole))


@contextmanager
def opened(place: str) -> Iterator[IO[bytes]]:
    """A file, opened for reading and seeking. Raises OSError if it cannot be read."""
    if not is_remote(place):
        with Path(place).open("rb") as file:
            yield file
        return
    file_system, path = _file_system(place)
    with _tried(place, lambda: file_system.open(path, "rb")) as file:
        yield file


def _tried(place: str, act: Any) -> Any:
    """Try up to five times, as networks fail now and then. Raises OSError for any error."""
    for attempt in range(TRIES):
        try:
            return act()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # every file system raises types of its own
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise  # the local disk is full
            if attempt == TRIES - 1:
                raise OSError(f"{place} cannot be read: {error or type(error).__name__}") from error
            time.sleep(PAUSE_SECONDS * 2**attempt)
    raise AssertionError


def _alternatives(text: str) -> list[str]:
    """The texts that the inside of a pair of braces stands for: `000..127` or `a,b`."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return text.split(",")
    first, last = found.groups()
    if not int(first) <= int(last) < int(first) + MOST_PLACES:
        raise ConfigError(f"{{{text}}} is not a range", remedy="write the smaller number first")
    width = len(first) if len(first) == len(last) or first.startswith("0") else 0
    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]


def expand_braces(pattern: str) -> list[str]:
    """The names that patterns such as `shards/{000..127}.tar` and `{train,extra}.tar` stand for, in
    order. Raises ConfigError for a range that runs backwards or is huge."""
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [
        name
        for middle in _alternatives(found.group(1))
        for name in expand_braces(before + middle + after)
    ]


def _matching(pattern: str) -> list[str]:
    if not is_remote(pattern):
        return glob.glob(pattern)  # noqa: PTH207 - the pattern may be absolute
    file_system, path = _file_system(pattern)
    try:
        found = _tried(pattern, lambda: file_system.glob(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(
            f"what matches {pattern} cannot be listed: {error}",
            remedy="check the address, the network, and that your credentials permit listing",
        ) from error
    return [str(file_system.unstrip_protocol(name)) for name in found]


def expand(pattern: str) -> list[str]:
    """The files that a pattern with braces and wildcards stands for: `*`, `?` and `[...]`, or only
    `*` in addresses. Braces keep their order; the matches of a wildcard come in natural order.

    Raises:
        DataError: A wildcard matches nothing or cannot be looked up, or a named file is missing.
    """
    if not is_remote(pattern) and Path(pattern).exists():
        return [pattern]
    places: list[str] = []
    missing: list[str] = []
    for name in expand_braces(pattern):
        if "*" in name or (not is_remote(name) and glob.has_magic(name)):
            found = sorted(_matching(name), key=natural_key)
            places += found
            missing += [] if found else [name]
        else:
            places.append(name)
            missing += [] if is_remote(name) or Path(name).is_file() else [name]
    if missing:
        raise DataError(
            f"{pattern}: nothing is there for {quoted(missing)}",
            remedy="check the numbers and the folder; {000..127} counts from 000 to 127",
        )
    return places
