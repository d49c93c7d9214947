"""Disks of a process's own, of any size."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NEW_MOUNTS, NEW_USERS = 0x20000, 0x10000000  # of unshare(2)
READ_ONLY, REMOUNT, PRIVATE = 1, 32, 0x40000 | 0x4000  # of mount(2)
libc = ctypes.CDLL(None, use_errno=True)


class NotAllowedError(Exception):
    """This machine lets nobody mount."""


def mount(place: Path, flags: int = 0, options: str = "") -> None:
    given = (b"tmpfs", os.fsencode(place), b"tmpfs", flags, options.encode())
    if libc.mount(*given[:3], ctypes.c_ulong(flags), given[4]):
        raise NotAllowedError(os.strerror(ctypes.get_errno()))


def own_mounts() -> None:
    """Those of this process are seen by no other from here on, and end with it."""
    user = 0 if os.geteuid() == 0 else NEW_USERS
    if libc.unshare(NEW_MOUNTS | user):
        raise NotAllowedError(os.strerror(ctypes.get_errno()))
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(PRIVATE), None):
        raise NotAllowedError(os.strerror(ctypes.get_errno()))
