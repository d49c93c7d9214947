"""What is read does not depend on who reads it; and what cannot be read is told."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beit.batch import Batch, ImageBatch, LabelledBatch, MaskedBatch
from beit.config.data import LoaderConfig, ViewConfig
from beit.config.masking import BlockMasking
from beit.data.augment import EvaluationView
from beit.data.dataset import open_source
from beit.data.loader import Loader, View, choose_workers, evaluate_batches
from beit.data.sources import ImageSource
from beit.data.transforms import MaskedViews, SingleView
from beit.errors import ConfigError, DataError, ResourceError
from beit.masking import build_sampler

Draw = Callable[..., Path]

SINGLE = SingleView(config=ViewConfig(), size=(16, 16))
NAMES = [f"{name}/{number}.png" for name in "ab" for number in range(5)]


@pytest.fixture
def source(draw: Draw) -> ImageSource:
    return open_source(str(draw(*NAMES)))


def make(source: ImageSource, view: View = SINGLE, **options: Any) -> Loader:
    given: dict[str, Any] = {"batch": 4, "micro_batch": 4, "seed": 1, "channels": 3}
    config = LoaderConfig(
        workers=options.pop("workers", 0),
        cache=options.pop("cache", False),
        worker_timeout=options.pop("worker_timeout", 60.0),
        worker_restarts=options.pop("worker_restarts", 1),
    )
    return Loader(source, view, config=config, **(given | options))


def flat(batches: list[Batch]) -> tuple[list[str], torch.Tensor]:
    keys = [key for batch in batches for key in batch.keys]
    return keys, torch.cat([batch.images for batch in batches])


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert flat(first)[0] == flat(second)[0]
    assert torch.equal(flat(first)[1], flat(second)[1])


@pytest.mark.parametrize("cache", [False, True, None])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_and_cache_change_nothing(
    source: ImageSource, workers: int, cache: bool | None
) -> None:
    expected = list(make(source).batches(0, 6))
    assert len(expected) == 6
    assert_same(expected, list(make(source, workers=workers, cache=cache).batches(0, 6)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("pipeline", ["parity", "fast"])
def test_start_at_any_step(source: ImageSource, step: int, workers: int, pipeline: str) -> None:
    view = SingleView(config=ViewConfig(pipeline=pipeline), size=(16, 16))
    expected = list(make(source, view).batches(0, 6))[step:]
    batches = list(make(source, view, workers=workers).batches(step, 6))
    assert_same(expected, batches)
    for one, other in zip(expected, batches, strict=True):
        assert (one.jitter is None) == (other.jitter is None) == (pipeline == "parity")
        if one.jitter is not None:
            assert one.jitter.shape == (4, 3, 3)
            assert torch.equal(one.jitter, other.jitter)


def test_ranks_together_are_one_process(source: ImageSource) -> None:
    expected = list(make(source).batches(0, 4))
    ranks = [list(make(source, rank=r, world=2, micro_batch=2).batches(0, 4)) for r in (0, 1)]
    assert_same(expected, [batch for pair in zip(*ranks, strict=True) for batch in pair])


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_micro_batches_change_nothing(source: ImageSource, micro_batch: int) -> None:
    loader = make(source, micro_batch=micro_batch)
    batches = list(loader.batches(0, 4))
    assert len(batches) == 4 * loader.micro_batches
    assert all(len(batch.images) == micro_batch for batch in batches)
    assert_same(list(make(source).batches(0, 4)), batches)


def test_every_visit_looks_different(source: ImageSource) -> None:
    keys, images = flat(list(make(source, batch=10, micro_batch=10).batches(0, 3)))
    assert sorted(keys) == sorted(NAMES * 3)
    assert len({image.numpy().tobytes() for image in images}) == 30


def test_kinds_of_batches(source: ImageSource) -> None:
    (single,) = make(source).batches(0, 1)
    assert isinstance(single, ImageBatch)
    assert single.images.is_contiguous()
    for token_size in (None, (8, 8)):
        views = MaskedViews(
            config=ViewConfig(),
            size=(16, 16),
            token_size=token_size,
            sampler=build_sampler(BlockMasking(), (4, 4)),
        )
        (masked,) = make(source, views).batches(0, 1)
        assert isinstance(masked, MaskedBatch)
        assert masked.token_images.shape[2:] == (token_size or (16, 16))
        assert masked.mask.shape == (4, 16)
    (labelled,) = make(source, EvaluationView((16, 16))).batches(0, 1)
    assert isinstance(labelled, LabelledBatch)
    names = [source.classes[target] for target in labelled.targets.tolist()]
    assert names == [key[0] for key in labelled.keys]


def test_global_randomness_is_untouched(source: ImageSource) -> None:
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    list(make(source, workers=1).batches(0, 2))
    assert torch.rand(()) == expected


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_listed_not_replaced(
    draw: Draw, source: ImageSource, workers: int, cache: bool
) -> None:
    expected = list(make(source).batches(0, 5))
    (draw(*NAMES) / "a" / "3.png").write_bytes(b"rubbish")
    batches = list(make(source, workers=workers, cache=cache).batches(0, 5))
    lost = [entry for batch in batches for entry in batch.unreadable]
    assert [entry.key for entry in lost] == ["a/3.png"] * 2
    assert "its content is none of" in lost[0].reason
    readable = [key for key in flat(expected)[0] if key != "a/3.png"]
    assert flat(batches)[0] == readable


def test_batch_without_a_readable_image_is_an_error(draw: Draw, source: ImageSource) -> None:
    root = draw(*NAMES)
    for name in NAMES:
        (root / name).write_bytes(b"")
    for cache in (False, True, None):
        with pytest.raises(DataError, match=r"none of the 4 images .*the file is empty"):
            next(make(source, cache=cache).batches(0, 1))
    with pytest.raises(DataError, match="none of the 10 images"):
        list(evaluate(source))


def evaluate(source: ImageSource, rank: int = 0, world: int = 1, workers: int = 0) -> list[Batch]:
    return list(
        evaluate_batches(
            source,
            EvaluationView((16, 16)),
            channels=3,
            batch=2,
            rank=rank,
            world=world,
            config=LoaderConfig(workers=workers),
        )
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 12])
def test_evaluation_reads_everything_once(source: ImageSource, world: int, workers: int) -> None:
    if world == 12 and workers:
        pytest.skip("nothing is left to read in parallel")
    batches = [batch for rank in range(world) for batch in evaluate(source, rank, world, workers)]
    assert flat(batches)[0] == NAMES


def test_evaluation_lists_unreadable_images(draw: Draw, source: ImageSource) -> None:
    root = draw(*NAMES)
    bad = ["a/0.png", "a/1.png", "a/4.png", "b/3.png", "b/4.png"]
    for name in bad:
        (root / name).write_bytes(b"rubbish")
    batches = evaluate(source)
    assert flat(batches)[0] == [name for name in NAMES if name not in bad]
    assert [entry.key for batch in batches for entry in batch.unreadable] == bad


class Suicide:
    """A view in which the process dies, as when memory runs out."""

    def __call__(
        self, image: np.ndarray, target: int | None, generator: random.Random
    ) -> ImageBatch:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Sleep:
    """A view that hangs."""

    def __call__(
        self, image: np.ndarray, target: int | None, generator: random.Random
    ) -> ImageBatch:
        signal.pause()
        raise AssertionError


@pytest.mark.parametrize("restarts", [0, 2])
def test_killed_worker_is_a_typed_error(source: ImageSource, restarts: int) -> None:
    loader = make(source, Suicide(), workers=1, worker_restarts=restarts)
    batches = loader.batches(0, 5)
    with pytest.raises(ResourceError, match="died"):
        next(batches)
    assert next(batches, None) is None
    assert loader.restarts == restarts


def test_hung_worker_is_a_typed_error(source: ImageSource) -> None:
    batches = make(source, Sleep(), workers=1, worker_timeout=0.5).batches(0, 5)
    with pytest.raises(ResourceError, match=r"whole worker_timeout; .* starts with '[ab]/"):
        next(batches)
    del batches
    gc.collect()
    assert not multiprocessing.active_children()


def test_workers_leave_requests_to_stop_to_the_parent(source: ImageSource) -> None:
    loader = make(source, workers=1)
    batches = loader.batches(0, 12)
    received = [next(batches)]
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    received += batches
    assert_same(list(make(source).batches(0, 12)), received)
    assert not multiprocessing.active_children()


class Broken:
    """A view with an error that is nothing of the processes'."""

    def __call__(
        self, image: np.ndarray, target: int | None, generator: random.Random
    ) -> ImageBatch:
        raise RuntimeError("CUDA error")


def test_other_errors_are_left_alone(source: ImageSource) -> None:
    loader = make(source, Broken(), workers=1)
    with pytest.raises(RuntimeError, match="CUDA error"):
        next(loader.batches(0, 5))
    assert loader.restarts == 0


def test_arguments_are_checked(source: ImageSource) -> None:
    with pytest.raises(ConfigError, match="micro-batch"):
        make(source, micro_batch=3)
    assert choose_workers(LoaderConfig(workers=3), 1) == 3
    assert choose_workers(LoaderConfig(), 10_000) == 0
    assert not make(source, cache=False).images.cached
    assert make(source, cache=None).images.cached


SCRIPT = """
import multiprocessing, sys
from beit.config.data import LoaderConfig, ViewConfig
from beit.data.loader import Loader
from beit.data.dataset import open_source
from beit.data.transforms import SingleView

if __name__ == "__main__":
    loader = Loader(
        open_source(sys.argv[1]), SingleView(config=ViewConfig(), size=(16, 16)), channels=3,
        batch=4, micro_batch=4, seed=1, config=LoaderConfig(workers=1, cache=True),
    )
    for method in ("spawn", "forkserver"):
        multiprocessing.set_start_method(method, force=True)
        print(*(key for batch in loader.batches(0, 3) for key in batch.keys))
"""


def test_processes_may_be_started_in_another_way(
    draw: Draw, source: ImageSource, tmp_path: Path
) -> None:
    script = tmp_path.parent / f"{tmp_path.name}.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-W", "error", str(script), str(draw(*NAMES))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.stderr == ""
    expected = " ".join(flat(list(make(source).batches(0, 3)))[0])
    assert result.stdout.splitlines() == [expected, expected]
