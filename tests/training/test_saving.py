"""Saving beside training: the state of its step, announced when it is durable, tried again."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections import namedtuple
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from beit.errors import Preempted, ResourceError
from beit.training import checkpoint as checkpoints
from beit.training.checkpoint import (
    Saver,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from beit.training.loop import fit
from miniature import InMemory, masked, masked_batch, opened
from states import assert_same, checkpoint


@pytest.fixture
def saver(tmp_path):
    saver = Saver(tmp_path, keep=9, waits=(0.0, 0.0))
    yield saver
    saver.close()


@pytest.fixture
def held(monkeypatch):
    """Saves wait for this event."""
    event = threading.Event()

    def slow(*given, **options):
        assert event.wait(240)
        return save_checkpoint(*given, **options)

    monkeypatch.setattr(checkpoints, "save_checkpoint", slow)
    yield event
    event.set()


def test_the_state_is_that_of_its_step_whatever_happens_meanwhile(saver, held, tmp_path):
    state = checkpoint(10)
    saver.save(state)
    for tensors in state.tensors.values():
        for tensor in tensors.values():
            tensor.fill_(7)
    assert saver.published is None
    held.set()
    saver.finish()
    assert saver.published == 10
    in_the_step = save_checkpoint(tmp_path / "other", checkpoint(10), keep=1)
    for file in in_the_step.iterdir():
        assert file.read_bytes() == (tmp_path / "step-00000010" / file.name).read_bytes()


def test_a_save_waits_for_the_one_before_and_uses_its_memory(saver, held, monkeypatch, tmp_path):
    saver.save(checkpoint(10))
    places = saver._copies["model"]["weight"].data_ptr()
    finish = saver.finish

    def release_and_finish():
        assert saver.published is None
        held.set()
        finish()

    monkeypatch.setattr(saver, "finish", release_and_finish)
    saver.save(checkpoint(20))
    assert saver.published in (10, 20)
    assert saver._copies["model"]["weight"].data_ptr() == places
    finish()
    for step in (10, 20):
        assert_same(read_checkpoint(tmp_path / f"step-000000{step}"), checkpoint(step))


def failing(monkeypatch, times):
    """The first saves fail; how many were tried."""
    tried = []

    def save(folder, state, **options):
        tried.append(state.step)
        if len(tried) <= times:
            raise ResourceError("the disk is full")
        return save_checkpoint(folder, state, **options)

    monkeypatch.setattr(checkpoints, "save_checkpoint", save)
    return tried


def test_a_save_that_fails_is_tried_again_with_the_same_state(saver, monkeypatch, tmp_path):
    tried = failing(monkeypatch, times=2)
    saver.save(checkpoint(10))
    saver.finish()
    assert tried == [10, 10, 10]
    assert_same(newest_checkpoint(tmp_path).checkpoint, checkpoint(10))


def test_a_save_that_is_given_up_is_told_once(saver, monkeypatch):
    tried = failing(monkeypatch, times=3)
    saver.save(checkpoint(10))
    with pytest.raises(ResourceError, match="disk is full"):
        saver.finish()
    assert len(tried) == 3
    saver.finish()
    assert saver.published is None


def train(folder, loader, resume=False, **options):
    with opened(folder, loader, **options) as run:
        return fit(masked(), run, resume=resume)


def test_training_hears_of_a_failed_save_at_its_next_step(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "WAITS", ())
    monkeypatch.setattr(Saver.__init__, "__kwdefaults__", {"waits": ()})
    failing(monkeypatch, times=99)
    saved: list[Future[int]] = []
    submit = ThreadPoolExecutor.submit

    def submitted(self, *given):
        saved.append(submit(self, *given))
        return saved[-1]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submitted)

    def wait_for_it(step):
        if step == 3:
            assert isinstance(saved[0].exception(), ResourceError)

    steps = []
    with pytest.raises(ResourceError, match="disk is full"):
        train(tmp_path, InMemory(masked_batch, before=lambda step: (steps.append(step),
              wait_for_it(step))), steps=50, save_every=3)  # fmt: skip
    assert max(steps) <= 4
    assert "saved after" not in (tmp_path / "log.txt").read_text()


def test_a_request_to_stop_waits_for_the_save(held, tmp_path):
    def stop(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Timer(0.3, held.set).start()

    with pytest.raises(Preempted):
        train(tmp_path, InMemory(masked_batch, before=stop), save_every=2)
    assert newest_checkpoint(tmp_path / "checkpoints").checkpoint.step == 3
    log = (tmp_path / "log.txt").read_text()
    assert log.index("saved after step 3") < log.index("stopped on request after step 3")


def test_a_save_is_announced_once_and_when_it_is_there(tmp_path):
    train(tmp_path, InMemory(masked_batch))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line for line in lines if "saved" in line] == [
        f"saved after step {step}" for step in (2, 4, 6)
    ]


def test_rows_are_durable_before_the_checkpoint_that_stands_for_them(monkeypatch, tmp_path):
    flushed = []

    def fsync(handle, real=os.fsync):
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    train(tmp_path, InMemory(masked_batch), save_every=6)
    rows = flushed.index("metrics.jsonl")
    assert rows < flushed.index("manifest.json") < len(flushed)


def test_a_disk_that_fills_up_elsewhere_is_told_as_such(tmp_path):
    def publish(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "artifact")

    with pytest.raises(ResourceError, match=r"artifact cannot .* after step 6: No space left"):
        train(tmp_path, InMemory(masked_batch), publish=publish)
    assert newest_checkpoint(tmp_path / "checkpoints").checkpoint.step == 6


def test_a_shortage_that_can_be_foreseen_is_refused_before_writing(monkeypatch, tmp_path):
    saved = save_checkpoint(tmp_path, checkpoint(10), keep=1)
    size = sum(file.stat().st_size for file in saved.iterdir())
    usage = namedtuple("usage", "total used free")
    free = int(size * 1.1) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free))
    monkeypatch.setattr(checkpoints, "write_file", pytest.fail)
    with pytest.raises(ResourceError, match=r"step 20 .*it needs 0 MiB \(0 MiB free\)"):
        save_checkpoint(tmp_path, checkpoint(20), keep=1)
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, free + 1))
    save_checkpoint(tmp_path, checkpoint(20), keep=1)


def test_a_folder_that_vanished_or_cannot_be_written_to(monkeypatch, tmp_path):
    place = tmp_path / "run" / "checkpoints"
    with pytest.raises(ResourceError, match=r"step 1 .*No such file"):
        save_checkpoint(place, checkpoint(1), keep=1)
    place.mkdir(parents=True)

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(ResourceError, match="Read-only file system"):
            save_checkpoint(place, checkpoint(1), keep=1)
    save_checkpoint(place, checkpoint(1), keep=1)
    assert_same(newest_checkpoint(place).checkpoint, checkpoint(1))
