"""Worker processes that die or stop: noticed, cleaned up, and no sample lost or read twice."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from beit.batch import Batch, ImageBatch
from beit.config.data import LoaderConfig, ViewConfig
from beit.data.dataset import open_source
from beit.data.loader import Loader, View, evaluate_batches
from beit.data.sources import ImageSource
from beit.data.transforms import SingleView
from beit.errors import ConfigError, ResourceError

Draw = Callable[..., Path]
STEPS = 60
SINGLE = SingleView(config=ViewConfig(), size=(16, 16))
NAMES = [f"{number}.png" for number in range(10)]

SAID = {
    signal.SIGKILL: "a process that reads images died: .*",
    signal.SIGSTOP: "no image came for the whole worker_timeout; the batch waited for .*",
}


@pytest.fixture
def source(draw: Draw) -> ImageSource:
    return open_source(str(draw(*NAMES)))


def loader(
    source: ImageSource,
    workers: int,
    restarts: int = 9,
    worker_timeout: float = 240.0,
    view: View = SINGLE,
    pin_memory: bool = False,
) -> Loader:
    return Loader(
        source,
        view,
        channels=3,
        batch=4,
        micro_batch=2,
        seed=1,
        config=LoaderConfig(
            workers=workers, cache=False, worker_timeout=worker_timeout, worker_restarts=restarts
        ),
        pin_memory=pin_memory,
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


def readers() -> list[int]:
    return [one.pid for one in multiprocessing.active_children() if one.pid]


def assert_same(read: list[Batch], expected: list[Batch]) -> None:
    for (keys, images), (expected_keys, expected_images) in zip(
        content(read), content(expected), strict=True
    ):
        assert keys == expected_keys
        assert torch.equal(images, expected_images)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_lost_worker_had_is_read_again(
    source: ImageSource, fault: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if it is lost in the midst of a step, and while this process does something else."""
    expected = list(loader(source, 0).batches(0, STEPS))
    # Who is stopped is noticed by the time it takes; who is killed is noticed by that.
    reading = loader(source, 2, worker_timeout=3.0 if fault == signal.SIGSTOP else 240.0)
    batches = reading.batches(0, STEPS)
    read: list[Batch] = []
    seen: set[int] = set()
    for moment in (1, 24):
        read += islice(batches, moment)
        processes = readers()
        assert len(processes) == 2
        seen.update(processes)
        lost = processes[moment % 2]
        os.kill(lost, fault)
        if (
            fault == signal.SIGKILL
        ):  # what a process hands over while it dies is a file never closed
            (dying,) = (one for one in multiprocessing.active_children() if one.pid == lost)
            dying.join()
    read += batches
    assert reading.restarts >= 2  # more where the machine is so busy that it seems to hang
    assert len(seen) == 4
    assert none_left([*seen])
    assert_same(read, expected)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * reading.restarts
    told = [re.match(SAID[fault], record.getMessage()) for record in caplog.records]
    assert len([*filter(None, told)]) >= 2


def test_one_loss_too_many_ends_it(source: ImageSource) -> None:
    reading = loader(source, 2, restarts=1)
    batches = reading.batches(0, STEPS)
    read: list[Batch] = []
    with pytest.raises(ResourceError, match=r"died: .*"):  # noqa: PT012
        for _ in range(2):
            read.append(next(batches))
            os.kill(readers()[0], signal.SIGKILL)
            read += islice(batches, 30)
    assert none_left(readers())
    # Going on from the step that was not completed gives what is missing.
    step = len(read) // 2
    rest = list(loader(source, 2).batches(step, STEPS))
    assert_same(read[: 2 * step] + rest, list(loader(source, 0).batches(0, STEPS)))


def test_an_evaluation_reads_again_too(
    source: ImageSource, caplog: pytest.LogCaptureFixture
) -> None:
    def evaluate(workers: int) -> Iterator[Batch]:
        return evaluate_batches(
            source, SingleView(config=ViewConfig(), size=(16, 16)), channels=3, batch=1,
            config=LoaderConfig(workers=workers),
        )  # fmt: skip

    batches = evaluate(2)
    read = [next(batches)]
    os.kill(readers()[0], signal.SIGKILL)
    read += batches
    assert_same(read, list(evaluate(0)))
    assert "read again by new processes (1 of at most 3 times)" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pipe_in_place_of_a_image_is_not_waited_for(
    draw: Draw, source: ImageSource, workers: int
) -> None:
    place = draw(*NAMES) / "3.png"
    place.unlink()
    os.mkfifo(place)
    batches = list(loader(source, workers).batches(0, 5))
    lost = {entry for batch in batches for entry in batch.unreadable}
    assert lost == {("3.png", "it is a pipe or a device")}


class UnusualError(Exception):
    """Cannot be made again from its message, as pickle does."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(f"{text} {code}")


def unusual(*_: object) -> ImageBatch:
    raise UnusualError(7, text="number")


def refused(*_: object) -> ImageBatch:
    raise ConfigError("no such crop", remedy="use another")


@pytest.mark.parametrize(
    ("view", "kind", "text"),
    [
        (unusual, RuntimeError, r"Traceback[\s\S]*in unusual[\s\S]*number 7"),
        (refused, ConfigError, "no such crop"),
    ],
)
def test_an_error_of_a_worker_is_raised_here(
    source: ImageSource, view: View, kind: type[Exception], text: str
) -> None:
    batches = loader(source, 1, view=view).batches(0, 2)
    with pytest.raises(kind, match=text):
        next(batches)
    assert none_left(readers())


@pytest.mark.parametrize("workers", [0, 2])
def test_every_tensor_is_pinned(
    source: ImageSource, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[bool] = []
    empty = torch.empty

    def counted(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        pinned.append(pin_memory)
        return empty(*size, **options)

    expected = list(loader(source, 0).batches(0, 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "empty", counted)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(True) or self)
    view = SingleView(config=ViewConfig(pipeline="fast"), size=(16, 16))
    fast = list(loader(source, workers, view=view, pin_memory=True).batches(0, 2))
    assert [batch.keys for batch in fast] == [batch.keys for batch in expected]
    assert sum(pinned) == 2 * len(fast)  # images and their jitter
