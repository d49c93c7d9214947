"""What the system refuses, or runs out of, is told as such, and not as a fault of what is read."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import subprocess
import sys

import pytest

from beit.cli import VERBS, main
from beit.data import sources
from children import in_a_child


@pytest.mark.parametrize("when", ["listed", "read"])
def test_images_are_not_damaged_where_no_more_files_can_be_opened(when, class_folders):
    words = ["data", "check", str(class_folders)]
    read_file = sources.read_file

    def limit() -> None:
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))

    def run() -> None:
        assert main(words) == 0  # what is loaded once needs no descriptors
        if when == "read":
            sources.read_file = lambda *given: (limit(), read_file(*given))[1]
        else:
            limit()
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            assert main(words) == 6
        assert "Too many open files" in told.getvalue()
        assert "ulimit -n" in told.getvalue()

    assert in_a_child(run) == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory ran out"),
        (ImportError("libx.so: failed to map segment from shared object"), "memory ran out before"),
        (RuntimeError("can't start new thread"), "no further thread can be started"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
    ],
    ids=repr,
)
def test_what_the_system_ran_out_of_is_told_as_such(error, told, capsys, monkeypatch):
    def fail(_: list[str]) -> None:
        raise error

    monkeypatch.setitem(VERBS, "models", fail)
    assert main(["models"]) == 6
    assert told in capsys.readouterr().err
    with pytest.raises(type(error)):
        main(["--traceback", "models"])


def test_a_library_that_is_not_there_is_no_lack_of_memory(monkeypatch):
    def fail(_: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'x'")

    monkeypatch.setitem(VERBS, "models", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["models"])


def test_a_folder_that_is_gone_is_told_before_libraries_end_the_process(
    tmp_path, class_folders, capfd
):
    def run() -> None:
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        assert main(["data", "check", str(class_folders)]) == 6
        assert main(["--help"]) == 0

    assert in_a_child(run) == 0
    assert "the folder in which this was started is gone" in capfd.readouterr().err


@pytest.mark.parametrize("words", [["data", "check", "--help"], ["models", "--x"]])
def test_a_terminal_of_one_column_ends_no_help(words, environment):
    done = subprocess.run(
        [sys.executable, "-m", "beit", *words],
        env=environment | {"COLUMNS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (2 if "--x" in words else 0)
    assert "label-pattern" in done.stdout or "Unrecognized" in done.stderr


THREADS = """
import threading
from beit import cli
def verb(_):
    for error in (OSError(28, 'No space left on device', 'events'), KeyError('a fault')):
        def fail(error=error):
            raise error
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
cli.VERBS['verb'] = verb
cli.program()
"""


def test_a_thread_of_a_library_that_meets_a_full_disk_shows_no_stack(environment):
    done = subprocess.run(
        [sys.executable, "-c", THREADS, "verb"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0
    first, *others = done.stderr.splitlines()
    assert first == "warning: [Errno 28] No space left on device: 'events'"
    assert others[0].startswith("Exception in thread")
    assert others[-1] == "KeyError: 'a fault'"
