"""Requests to stop: while code is loaded, from a terminal that is gone, to several processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from beit.errors import ResourceError
from beit.process import StopRequest, ended_together
from children import in_a_child

INTERRUPTED = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from beit.cli import program
program()
"""


@pytest.mark.parametrize("module", ["beit.cli.verbs", "tyro", "beit.recipes"])
def test_an_interrupt_while_code_is_loaded_leaves_no_stack(module, environment):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_what_was_started_to_outlive_its_terminal_is_not_stopped_by_it():
    def hung_up() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopRequest(interrupts=True):
            os.kill(os.getpid(), signal.SIGHUP)

    assert in_a_child(hung_up) == 0


def test_processes_that_work_for_one_that_is_stopped_stop_with_it():
    """And begin nothing of what was already handed to them; one that dies is told."""
    heard, told = os.pipe()

    def stopped() -> None:
        os.close(heard)
        pool = ProcessPoolExecutor(2, get_context("fork"))
        with StopRequest(interrupts=True), contextlib.suppress(KeyboardInterrupt):
            with ended_together(pool):
                list(pool.map(pauses, [told] * 8, [os.getpid()] * 8))
            raise AssertionError

    assert in_a_child(stopped) == 0
    os.close(told)
    assert os.read(heard, 9) == b"xx"
    os.close(heard)
    pool = ProcessPoolExecutor(1, get_context("fork"))
    with pytest.raises(ResourceError, match="ended early"), ended_together(pool):
        pool.submit(os._exit, 1).result()


def pauses(told: int, parent: int) -> None:
    """Work without an end; the second that begins with it has the parent stopped."""
    os.write(told, b"x")
    if fcntl.ioctl(told, termios.FIONREAD, b"    ")[0] == 2:
        os.kill(parent, signal.SIGTERM)
    signal.pause()
