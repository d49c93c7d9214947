"""Worker processes that die or stop: noticed, cleaned up, and no sample lost or read twice."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from beit.batch import Batch
from beit.config.data import LoaderConfig, ViewConfig
from beit.data.loader import Loader, worker_failure
from beit.data.sources import ImageSource, open_source
from beit.data.views import SingleView
from beit.data.watch import Watch
from beit.errors import ResourceError

Draw = Callable[..., Path]
STEPS = 60
NAMES = [f"{number}.png" for number in range(10)]

SAID = {signal.SIGKILL: "died", signal.SIGSTOP: "whole worker_timeout; .* starts with"}


@pytest.fixture
def source(draw: Draw) -> ImageSource:
    return open_source(str(draw(*NAMES)))


def loader(source: ImageSource, workers: int) -> Loader:
    return Loader(
        source,
        SingleView(config=ViewConfig(), size=(16, 16)),
        channels=3,
        batch=4,
        micro_batch=2,
        seed=1,
        config=LoaderConfig(workers=workers, cache=False, worker_timeout=3.0),
    )


def content(batches: list[Batch]) -> list[tuple[tuple[str, ...], torch.Tensor]]:
    return [(batch.keys, batch.images) for batch in batches]


def none_left(processes: list[int]) -> bool:
    for _ in range(100):
        alive = [one for one in processes if Path(f"/proc/{one}").exists()]
        if not alive:
            return True
        multiprocessing.active_children()  # collects those that ended
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_lost_worker_had_is_read_again(source: ImageSource, fault: signal.Signals) -> None:
    expected = content(list(loader(source, 0).batches(0, STEPS)))
    read: list[Batch] = []
    faults = 0
    while len(read) < len(expected):
        step = len(read) // 2
        del read[2 * step :]  # a step that was not completed is read again as a whole
        batches = loader(source, 2).batches(step, STEPS)
        read.append(next(batches))
        processes = [one.pid for one in multiprocessing.active_children() if one.pid]
        assert len(processes) == 2
        if faults < 2:
            # A death is also noticed wherever the process is at that moment.
            with pytest.raises((ResourceError, RuntimeError)) as caught:  # noqa: PT012
                os.kill(processes[faults], fault)
                read.extend(batches)
            faults += 1
            assert re.search(SAID[fault], str(worker_failure(caught.value) or caught.value))
            batches.close()
        else:
            read.extend(batches)
        del batches
        gc.collect()
        assert none_left(processes)
    assert faults == 2
    for (keys, images), (expected_keys, expected_images) in zip(
        content(read), expected, strict=True
    ):
        assert keys == expected_keys
        assert torch.equal(images, expected_images)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pipe_in_place_of_a_picture_is_not_waited_for(
    draw: Draw, source: ImageSource, workers: int
) -> None:
    place = draw(*NAMES) / "3.png"
    place.unlink()
    os.mkfifo(place)
    batches = list(loader(source, workers).batches(0, 5))
    lost = {entry for batch in batches for entry in batch.unreadable}
    assert lost == {("3.png", "it is a pipe or a device")}


class Dying:
    """A worker whose connections are closed, and which is gone a moment later."""

    def __init__(self, moments: int) -> None:
        self.moments = moments

    def is_alive(self) -> bool:
        self.moments -= 1
        return self.moments >= 0


def test_a_worker_that_is_about_to_be_gone_counts_as_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(iter(()), 1.0)
    assert not watch.one_died()  # there is none
    watch._workers = [Dying(10**9), Dying(3)]
    assert watch.one_died()
    monkeypatch.setattr("beit.data.watch.DYING_SECONDS", 0.05)
    watch._workers = [Dying(10**9)]
    assert not watch.one_died()
