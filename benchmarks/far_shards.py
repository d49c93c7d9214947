"""`python -m benchmarks.far_shards [--shards N]`: shards behind a server that is far away against
the same in a local folder, read in turn by the same loader.

The server answers 30 ms late and carries 200 MB/s; of the cache half of the shards fit.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from beit.batch import Batch
from beit.config.data import LoaderConfig, ViewConfig
from beit.data.dataset import open_source
from beit.data.loader import Loader
from beit.data.pack import pack
from beit.data.transforms import SingleView
from benchmarks.far_server import serving
from benchmarks.loading import jpegs

LATENCY, RATE = 0.03, 200e6
BATCH, TURN = 32, 8
"""Images, and batches that each reads before the other's turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=48)
    parser.add_argument("--megabytes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BEIT_HOME"] = f"{folder}/home"
        packed = _pack(Path(folder), asked.shards, asked.megabytes)
        with serving(packed, LATENCY, RATE) as server:
            _measure(packed, server.url, asked.epochs, server.requests)


def _pack(folder: Path, shards: int, megabytes: int) -> Path:
    """Parts of one image of the Earth, again and again, under other names."""
    photos = jpegs(64)
    each = sum(map(len, photos)) / len(photos)
    (folder / "images").mkdir()
    for number in range(int(shards * megabytes * 1e6 / each)):
        (folder / "images" / f"{number:06d}.jpg").write_bytes(photos[number % len(photos)])
    return pack(str(folder / "images"), str(folder / "packed"), shard_size=megabytes).folder


def _measure(packed: Path, url: str, epochs: int, requests: dict[str, int]) -> None:
    shards = [place.stat().st_size for place in packed.glob("*.tar")]
    limit = sum(shards) * 0.75
    loaders = [
        Loader(
            open_source(place),
            SingleView(config=ViewConfig(), size=(224, 224)),
            channels=3,
            batch=BATCH,
            micro_batch=BATCH,
            seed=0,
            order="shards",
            config=LoaderConfig(workers=1, cache=False, cache_size=limit / 1e9),
        )
        for place in (str(packed), url)
    ]
    steps = epochs * len(loaders[0].images.source) // BATCH
    begun = time.perf_counter()
    streams = [loader.batches(0, steps) for loader in loaders]
    firsts = [next(stream) for stream in streams]
    late = time.perf_counter() - begun
    assert firsts[0].keys == firsts[1].keys
    times, images = [0.0, 0.0], 0
    while True:
        found = [_turn(stream, times, at) for at, stream in enumerate(streams)]
        assert [one.keys for one in found[0]] == [one.keys for one in found[1]]
        if not found[0]:
            break
        images += sum(len(one.keys) for one in found[0])
    asked = sum(count for path, count in requests.items() if path.endswith(".tar"))
    near, far = (images / seconds for seconds in times)
    print(f"{len(shards)} shards of {max(shards) / 1e6:.1f} MB, {epochs} epochs, cache of "
          f"{limit / 1e6:.0f} MB")  # fmt: skip
    print(f"first batch of both after {late:.1f} s")
    print(f"local {near:.0f} images/s, far {far:.0f}: {far / near:.0%}")
    print(f"{asked / len(shards) / epochs:.3f} requests per shard and epoch")


def _turn(stream: Iterator[Batch], times: list[float], at: int) -> list[Batch]:
    begun = time.perf_counter()
    found = list(islice(stream, TURN))
    times[at] += time.perf_counter() - begun
    return found


if __name__ == "__main__":
    main()
