"""Shared memory that is too small is named at once, or done without."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from beit.config.data import LoaderConfig, ViewConfig
from beit.data import shared_memory
from beit.data.dataset import open_source
from beit.data.loader import Loader, evaluate_batches
from beit.data.sources import ImageSource
from beit.data.transforms import SingleView
from beit.errors import ResourceError
from children import in_a_child
from disks import NotAllowedError, mount, own_mounts

Draw = Callable[..., Path]
NOT_ALLOWED = 77
CONFIG = LoaderConfig(workers=2, cache=False)


@pytest.fixture
def source(draw: Draw) -> ImageSource:
    return open_source(str(draw(*(f"{number}.png" for number in range(12)))))


def loader(source: ImageSource, config: LoaderConfig) -> Loader:
    view = SingleView(config=ViewConfig(), size=(64, 64))
    return Loader(
        source, view, channels=3, batch=32, micro_batch=32, seed=1, config=config
    )  # 32 x 3 x 64 x 64 bytes are 0.4 MiB, and five of them 1.9


def with_shared_memory(size: str, action: Callable[[], None]) -> None:
    def run() -> None:
        try:
            own_mounts()
            mount(Path(shared_memory.SHARED_MEMORY), options=f"size={size}")
        except NotAllowedError:
            os._exit(NOT_ALLOWED)
        action()

    code = in_a_child(run)
    if code == NOT_ALLOWED:
        pytest.skip("no disk may be mounted here")
    assert code == 0


@pytest.mark.parametrize("size", ["200k", "1m"])
def test_a_number_of_workers_that_was_asked_for_is_refused(source: ImageSource, size: str) -> None:
    """Where one batch has no room, and where only all of them have none."""

    def run() -> None:
        with pytest.raises(
            ResourceError, match=r"1\.9 MiB of shared memory .*/dev/shm has"
        ) as told:
            list(loader(source, CONFIG).batches(0, 50))
        assert "--workers 0" in str(told.value)
        assert "--shm-size" in str(told.value)

    with_shared_memory(size, run)


@pytest.mark.parametrize("size", ["200k", "1300k"])
def test_else_fewer_read_and_nothing_is_missed(
    source: ImageSource, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beit.data.loader.cores", lambda: 8)
    expected = [batch.keys for batch in loader(source, replace(CONFIG, workers=0)).batches(0, 6)]

    def run() -> None:
        batches = loader(source, replace(CONFIG, workers=None)).batches(0, 6)
        assert [batch.keys for batch in batches] == expected

    with_shared_memory(size, run)


def test_an_evaluation_is_refused_as_well(source: ImageSource) -> None:
    def run() -> None:
        view = SingleView(config=ViewConfig(), size=(512, 512))
        with pytest.raises(ResourceError, match="shared memory"):
            list(evaluate_batches(source, view, channels=3, batch=3, config=CONFIG))

    with_shared_memory("200k", run)


def test_what_is_in_flight() -> None:
    assert shared_memory.in_flight(2) == 5
    assert shared_memory.shared_memory() > 0
