"""What the system refuses, or runs out of, is told as such, and not as a fault of what is read."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from beit.cli import VERBS, main
from beit.config import TrainingConfig
from beit.data import hugging_face, sources
from beit.errors import ResourceError
from beit.hardware import raise_if_exhausted
from beit.inference import bulk
from beit.serve.worker import Model, try_models
from beit.training.loop import fit
from beit.training.update import Updater
from beit.weights import read as reading
from beit.weights import store
from beit.weights.export import formats
from beit.weights.export.formats import NO_TELEMETRY
from children import in_a_child
from miniature import CPU, InMemory, classification, labelled_batch, opened


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
        (RuntimeError("could not create a primitive"), "memory ran out"),
        (RuntimeError("std::bad_alloc"), "memory ran out"),
        (ImportError("libx.so: failed to map segment from shared object"), "memory ran out before"),
        (RuntimeError("can't start new thread"), "no further thread can be started"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/x"),
            "/root/x: Permission denied",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), "name a place of your own"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "TMPDIR"),
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


NO_MEMORY = RuntimeError(
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)
NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raises(error):
    def fail(*_, **__):
        raise error

    return fail


def test_what_ran_out_is_found_behind_the_errors_of_libraries():
    for ran_out in (NO_MEMORY, NO_ROOM, MemoryError(), OSError(errno.EMFILE, "too many")):
        try:
            try:
                raise ran_out
            except Exception as error:
                raise ValueError("the library failed") from error
        except ValueError as error:
            with pytest.raises(type(ran_out)) as found:
                raise_if_exhausted(error)
            assert found.value is ran_out
    for other in (
        FileNotFoundError(errno.ENOENT, "no source code"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
    ):
        raise_if_exhausted(other)


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (store, "build", NO_MEMORY),  # it was said to be damaged
        (torch.export, "export", NO_MEMORY),  # PyTorch was said not to follow it
        (formats, "_trace", NO_ROOM),
    ],
)
def test_a_model_is_not_blamed_for_what_ran_out(
    place, name, error, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(place, name, raises(error))
    words = ["export", trained.classifier, tmp_path / "x.pt2", "--to", "torch"]
    assert main([*map(str, words)]) == 6
    told = capsys.readouterr().err
    assert ("memory ran out" in told) == (error is NO_MEMORY)
    assert not list(tmp_path.iterdir())


def test_a_file_of_others_is_not_damaged_where_memory_runs_out(tmp_path, monkeypatch):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    monkeypatch.setattr(reading, "_tensor", raises(NO_MEMORY))
    with pytest.raises(RuntimeError, match="can't allocate"):
        reading.read_contents(tmp_path / "a.pth")


def test_a_data_set_is_not_blamed_for_a_full_disk(monkeypatch):
    monkeypatch.setattr(hugging_face, "_load", raises(NO_ROOM))
    with pytest.raises(OSError, match="No space left"):
        hugging_face.open_hugging_face("hf:me/name")


def test_a_checkpoint_is_of_no_other_architecture_where_memory_runs_out(monkeypatch):
    config = TrainingConfig(steps=1, batch=8, lr=1e-3, warmup_steps=0, precision="fp32")
    updater = Updater(classification(), config, CPU, print)
    monkeypatch.setattr(updater.weights, "load", raises(NO_MEMORY))
    with pytest.raises(RuntimeError, match="can't allocate"):
        updater.load((1, {}, {}))


@pytest.mark.parametrize("verb", ["finetune", "embed", "embed parts"])
def test_too_many_open_files_are_not_taken_for_a_full_disk(
    verb, trained, class_folders, tmp_path, monkeypatch
):
    out = tmp_path / ("x.npz" if verb == "embed" else "x")
    refused = OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(out / "y"))
    if verb == "finetune":
        step = raises(refused)
        with (
            opened(tmp_path, InMemory(labelled_batch, before=step)) as run,
            pytest.raises(ResourceError, match=r"ulimit -n(.|\n)*--resume"),
        ):
            fit(classification(), run, resume=False)
        return
    monkeypatch.setattr(bulk.Job, "rows", raises(refused))
    told = io.StringIO()
    words = ["embed", trained.pretrained, class_folders, "--out", out]
    with contextlib.redirect_stderr(told):
        assert main([*map(str, words)]) == 6
    assert "Too many open files" in told.getvalue()
    assert "ulimit -n" in told.getvalue()


def test_a_served_model_passes_no_blame_for_memory():
    predictor = SimpleNamespace(channels=3)
    ability = SimpleNamespace(prepare=raises(NO_MEMORY))
    with pytest.raises(RuntimeError, match="can't allocate"):
        try_models({"a": Model(predictor, {"classify": ability})})


def test_writing_onnx_reports_nothing_to_anybody(tmp_path, trained, environment):
    """ONNX Runtime would, and would keep an identifier of this machine in the home folder."""
    words = ["export", trained.classifier, tmp_path / "x.onnx", "--to", "onnx"]
    without = {name: value for name, value in environment.items() if name != NO_TELEMETRY[0]}
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "beit", *map(str, words)],
        env=without | {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""},
        check=False,
    )
    assert done.returncode == 0
    assert not [path for path in (tmp_path / "home").rglob("*") if "onnxruntime" in path.name]
