"""Shards behind HTTP are fetched as a whole, each once, and give what a local folder gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from beit.batch import Batch
from beit.config.data import LoaderConfig, ViewConfig
from beit.config.training import Order
from beit.data.dataset import open_source
from beit.data.loader import Loader, evaluate_batches
from beit.data.pack import pack
from beit.data.shard_cache import Shard, ShardCache
from beit.data.shards import ShardSource
from beit.data.sources import select
from beit.data.transforms import SingleView
from beit.errors import ConfigError
from benchmarks.far_server import FarServer, serving

pytest.importorskip("aiohttp")
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

IMAGES = 120
VIEW = SingleView(config=ViewConfig(), size=(8, 8))


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("beit.data.storage.PAUSE_SECONDS", 0.001)


@pytest.fixture
def packed(draw: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """About forty shards of three images."""
    folder = draw(*(f"{number:03d}.png" for number in range(IMAGES)))
    monkeypatch.setattr("beit.data.pack.MEGABYTE", 3000)
    return pack(str(folder), str(tmp_path / "packed"), shard_size=1).folder


@pytest.fixture
def server(packed: Path) -> Iterator[FarServer]:
    with serving(packed) as server:
        yield server


def largest(packed: Path) -> int:
    return max(place.stat().st_size for place in packed.glob("*.tar"))


def loader(
    place: str,
    *,
    order: Order = "shards",
    size: float | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Loader:
    return Loader(
        open_source(place), VIEW, channels=3, batch=4, micro_batch=2, seed=1, order=order,
        rank=rank, world=world,
        config=LoaderConfig(workers=workers, cache=False, cache_size=size),
    )  # fmt: skip


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys == other.keys
        assert not one.unreadable
        assert torch.equal(one.images, other.images)


def shard_requests(server: FarServer) -> dict[str, int]:
    return {path: count for path, count in server.requests.items() if path.endswith(".tar")}


@pytest.mark.parametrize("workers", [0, 2])
def test_each_shard_is_requested_once_in_all_epochs_if_all_fit(
    packed: Path, server: FarServer, workers: int
) -> None:
    steps = 3 * IMAGES // 4
    expected = list(loader(str(packed)).batches(0, steps))
    far = loader(server.url, order="auto", workers=workers)
    assert_same(list(far.batches(0, steps)), expected)
    shards = sorted(f"/{place.name}" for place in packed.glob("*.tar"))
    assert len(shards) > 35
    assert shard_requests(server) == dict.fromkeys(shards, 1)
    assert set(server.requests) - set(shards) == {"/shards.json"}
    # A run that goes on has them there, and begins anywhere.
    assert_same(list(loader(server.url, workers=workers).batches(7, steps)), expected[14:])
    assert shard_requests(server) == dict.fromkeys(shards, 1)


def test_a_bounded_cache_needs_one_request_per_shard_and_epoch(
    packed: Path, server: FarServer, tmp_path: Path
) -> None:
    steps, limit = 3 * IMAGES // 4, 34 * largest(packed)
    far, held = loader(server.url, size=limit / 1e9), 0
    for at, batch in enumerate(far.batches(0, steps)):
        assert not batch.unreadable
        if at % 10 == 0:
            sizes = 0
            for place in (tmp_path / "home" / "whole-shards").iterdir():
                with suppress(FileNotFoundError):
                    sizes += place.stat().st_size
            held = max(held, sizes)
    assert 16 * largest(packed) < held <= limit
    requests = shard_requests(server)
    assert sum(requests.values()) <= 1.05 * 3 * len(requests)


def test_cuts_and_refusals_lose_and_double_nothing(packed: Path, server: FarServer) -> None:
    steps = IMAGES // 4
    expected = list(loader(str(packed)).batches(0, steps))
    server.moods = ("503", "cut", "503")
    assert_same(list(loader(server.url).batches(0, steps)), expected)
    assert set(shard_requests(server).values()) == {4}


def test_processes_share_what_was_fetched(packed: Path, server: FarServer) -> None:
    steps = IMAGES // 4
    expected = list(loader(str(packed)).batches(0, steps))
    ranks = [loader(server.url, rank=rank, world=2).batches(0, steps) for rank in range(2)]
    assert_same([batch for pair in zip(*ranks, strict=True) for batch in pair], expected)
    assert set(shard_requests(server).values()) == {1}


def test_a_full_shuffle_and_a_pass_in_order_read_whole_shards_that_fit(
    packed: Path, server: FarServer
) -> None:
    steps = IMAGES // 4
    expected = list(loader(str(packed), order="full").batches(0, steps))
    assert_same(list(loader(server.url, order="full").batches(0, steps)), expected)
    assert set(shard_requests(server).values()) == {1}
    source = select(open_source(server.url), range(IMAGES // 2))
    config = LoaderConfig(workers=0)
    (batch,) = evaluate_batches(source, VIEW, channels=3, batch=IMAGES, config=config)
    assert batch.keys == tuple(source.key(index) for index in range(IMAGES // 2))
    assert set(shard_requests(server).values()) == {1}


def test_few_images_of_many_shards_are_read_by_range(packed: Path, server: FarServer) -> None:
    source = select(open_source(server.url), range(0, IMAGES, 30))
    config = LoaderConfig(workers=0)
    (batch,) = evaluate_batches(source, VIEW, channels=3, batch=9, config=config)
    assert len(batch.keys) == 4
    assert len(shard_requests(server)) == 4


def test_another_shard_than_was_packed_is_refused(packed: Path, server: FarServer) -> None:
    place = packed / "000003.tar"
    content = bytearray(place.read_bytes())
    content[600] ^= 1
    place.write_bytes(content)
    batches = list(loader(server.url).batches(0, IMAGES // 4))
    lost = [one for batch in batches for one in batch.unreadable]
    assert 0 < len(lost) < 6
    assert {one.reason.partition(": ")[2] for one in lost} == {
        f"{server.url}/000003.tar is not what its index says: it has changed or is damaged"
    }


def test_shards_that_cannot_be_mixed_in_the_cache_are_refused(server: FarServer) -> None:
    with pytest.raises(ConfigError, match=r"(?s)mixed at a time take .* use --cache-size"):
        loader(server.url, size=1e-6)


def test_memory_and_opening_do_not_grow_with_the_images(packed: Path, server: FarServer) -> None:
    source = open_source(server.url)
    assert isinstance(source, ShardSource)
    assert len(source) == IMAGES
    assert source.fingerprint() == open_source(str(packed)).fingerprint()
    assert source.account.images == {"": IMAGES}
    assert server.requests == {"/shards.json": 1}


@pytest.fixture
def three(server: FarServer) -> list[Shard]:
    shards = open_source(server.url).shards()  # type: ignore[attr-defined]
    return list(shards.shards[:3])


def test_the_cache_drops_what_was_used_longest_ago_and_nothing_in_use(
    three: list[Shard], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    cache = ShardCache.at(str(folder), 2.5 * max(shard.size for shard in three) / 1e9)
    handles = [cache.pin(shard) for shard in three[:2]]
    assert cache.pin(three[2]) is None
    assert all(isinstance(handle, int) for handle in handles)
    for handle in reversed(handles):
        assert handle is not None
        cache.release(handle)
    os.utime(cache.path(three[0]), (9e9, 9e9))
    assert cache.fetch(three[2])
    assert cache.path(three[0]).exists()
    assert not cache.path(three[1]).exists()


def test_what_a_crash_left_is_removed(three: list[Shard], tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    cache = ShardCache.at(str(folder), 1.5 * max(shard.size for shard in three) / 1e9)
    (folder / f"{three[0].name}.part").write_bytes(b"half")
    (folder / f"{three[0].name}.lock").touch()  # which nobody holds
    assert cache.fetch(three[1])
    assert sorted(one.name for one in folder.iterdir()) == sorted(["room.lock", three[1].name])
