"""Batches need no shared memory on their way, as containers have only 64 MiB of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from beit.config.data import LoaderConfig, ViewConfig
from beit.data.dataset import open_source
from beit.data.loader import Loader, evaluate_batches
from beit.data.transforms import SingleView
from children import in_a_child
from disks import NotAllowedError, mount, own_mounts

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the place itself, not a file in it
NOT_ALLOWED = 77


def test_a_loader_works_without_shared_memory(draw: Callable[..., Path]) -> None:
    source = open_source(str(draw(*(f"{number}.png" for number in range(12)))))
    view = SingleView(config=ViewConfig(), size=(64, 64))
    config = LoaderConfig(workers=2, cache=False)

    def batches(config: LoaderConfig) -> list[torch.Tensor]:
        loader = Loader(source, view, channels=3, batch=32, micro_batch=32, seed=1, config=config)
        passed = evaluate_batches(source, view, channels=3, batch=3, config=config)
        return [batch.images for batch in (*loader.batches(0, 6), *passed)]

    expected = batches(replace(config, workers=0))

    def run() -> None:
        try:
            own_mounts()
            mount(SHARED_MEMORY, options="size=16k")
        except NotAllowedError:
            os._exit(NOT_ALLOWED)
        assert all(map(torch.equal, batches(config), expected))

    code = in_a_child(run)
    if code == NOT_ALLOWED:
        pytest.skip("no disk may be mounted here")
    assert code == 0
