"""A disk that is full after any number of bytes."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from trial import Trial, Try

from beit.errors import ResourceError
from beit.training.checkpoint import Saver, newest_checkpoint, save_checkpoint
from states import assert_same, checkpoint


@contextmanager
def at_most(quota: int) -> Iterator[None]:
    """No file can grow beyond that many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (quota, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _fill(folder: Path, quota: int) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        save_checkpoint(place, checkpoint(10), keep=1)
        saver = Saver(place, keep=1, waits=(0.0,))
        try:
            with at_most(quota):
                saver.save(checkpoint(20))
                with pytest.raises(ResourceError, match=r"step 20 .*File too large"):
                    saver.finish()
            assert [path.name for path in place.iterdir()] == ["step-00000010"]
            assert_same(newest_checkpoint(place).checkpoint, checkpoint(10))
            saver.save(checkpoint(20))
            saver.finish()
            assert_same(newest_checkpoint(place).checkpoint, checkpoint(20))
        finally:
            saver.close()


def tries(folder: Path, count: int) -> Iterator[Try]:
    """Quotas from nothing to one byte less than the largest file."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        saved = save_checkpoint(Path(place), checkpoint(20), keep=1)
        largest = max(file.stat().st_size for file in saved.iterdir())
    for number in range(count):
        yield partial(_fill, folder, number * (largest - 1) // max(count - 1, 1))


TRIAL = Trial(
    fault="the disk is full at byte n of a save",
    promise="a typed error with the room there is, no leftovers, the checkpoint before is whole, "
    "and the same state is saved once there is room",
    count=256,
    tries=tries,
)
