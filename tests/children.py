"""Processes of their own, to die, or to have fewer rights than this one."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534


def in_a_child(action: Callable[[], None]) -> int:
    """Do something in a process of its own; how it ended, as `Popen.returncode` tells it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:  # pytest is not there to show it
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def become_nobody(reaching: Path) -> None:
    """Give up what root may do, for which permissions do not count; the place can still be
    reached."""
    if os.geteuid() != 0:
        return
    for folder in (reaching, *reaching.parents[:-1]):
        folder.chmod(folder.stat().st_mode | 0o555)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
