"""Disks that are too small, and places that may not be written to: real ones, not stand-ins."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest

from beit.config import PretrainRunConfig
from beit.errors import ResourceError
from beit.recipes import find_recipe
from beit.training.checkpoint import Saver, newest_checkpoint, save_checkpoint
from beit.training.run_folder import RunFolder
from children import become_nobody, in_a_child
from disks import READ_ONLY, REMOUNT, NotAllowedError, mount, own_mounts
from states import assert_same, checkpoint

NOT_ALLOWED = 77


def kept(action: Callable[[], None]) -> None:
    """Of a promise that is tried in a child. Skips where no disk may be mounted."""
    code = in_a_child(lambda: try_it(action))
    if code == NOT_ALLOWED:
        pytest.skip("no disk may be mounted here")
    assert code == 0


def try_it(action: Callable[[], None]) -> None:
    try:
        action()
    except NotAllowedError:
        os._exit(NOT_ALLOWED)


def bytes_of(place: Path) -> int:
    return sum(file.stat().st_size for file in place.iterdir())


def test_a_disk_on_which_the_next_checkpoint_has_no_room(tmp_path: Path) -> None:
    """It is refused before a byte of it is written, and the one before is whole."""
    size = bytes_of(save_checkpoint(tmp_path / "elsewhere", checkpoint(10), keep=1))

    def fill() -> None:
        own_mounts()
        disk = tmp_path / "disk"
        disk.mkdir()
        mount(disk, options=f"size={4 * size + 2**15}")
        place = disk / "checkpoints"
        save_checkpoint(place, checkpoint(10), keep=1)
        filling = os.statvfs(disk)
        (disk / "other").write_bytes(bytes(filling.f_bavail * filling.f_frsize - size))
        with pytest.raises(ResourceError, match=r"step 20 .*it needs 0 MiB \(0 MiB free\)"):
            save_checkpoint(place, checkpoint(20), keep=1)
        assert [path.name for path in place.iterdir()] == ["step-00000010"]
        (disk / "other").unlink()
        save_checkpoint(place, checkpoint(20), keep=1)
        assert_same(newest_checkpoint(place).checkpoint, checkpoint(20))

    kept(fill)


def test_a_disk_that_becomes_read_only_loses_nothing(tmp_path: Path) -> None:
    """The state waits in memory until the disk can be written to again."""

    def lock() -> None:
        own_mounts()
        mount(tmp_path, options="size=16m")
        place = tmp_path / "checkpoints"
        save_checkpoint(place, checkpoint(10), keep=1)
        mount(tmp_path, REMOUNT | READ_ONLY)
        saver = Saver(place, keep=1, waits=(0.0,))
        saver.save(checkpoint(20))
        with pytest.raises(ResourceError, match=r"step 20 .*Read-only file system"):
            saver.finish()
        assert_same(newest_checkpoint(place).checkpoint, checkpoint(10))
        patient = Saver(place, keep=1, waits=(0.1,) * 600)
        patient.save(checkpoint(20))
        Timer(0.3, mount, (tmp_path, REMOUNT)).start()
        patient.finish()
        assert_same(newest_checkpoint(place).checkpoint, checkpoint(20))

    kept(lock)


def test_a_run_does_not_start_where_it_may_not_write(tmp_path: Path) -> None:
    config = replace(find_recipe("pretrain", "tiny", PretrainRunConfig), data="images", out="run")

    def start() -> None:
        (tmp_path / "fixed").mkdir()
        (tmp_path / "fixed").chmod(0o555)
        become_nobody(tmp_path)
        with pytest.raises(ResourceError, match=r"run cannot be written to: Permission denied"):
            RunFolder(tmp_path / "fixed" / "run").open(config, resume=False)

    kept(start)
