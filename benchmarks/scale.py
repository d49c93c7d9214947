"""`python -m benchmarks.scale [mixing] [billion] [cost]`: what docs/scale.md says, computed.

- mixing: how well the order by shards mixes, against a full shuffle.
- billion: a billion images in 100,000 shards on 512 processes, through the real code: memory, time
  to the first batch, and to go on at any step. The shards themselves are made up.
- cost: requests, bytes and hours of ImageNet-22k by a model of the parts that were measured.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from beit.data.listing import Names
from beit.data.order import FullOrder, Order, ShardOrder, step_samples
from beit.data.shard_index import ShardIndex, write_index
from beit.data.shards import FORMAT, INDEXES, MANIFEST, ShardSource, open_shards, shard_parts
from beit.data.storage import Stamp

GPUS_PER_NODE, WORKERS = 8, 16
GB = 1e9


def mixing() -> None:
    """Shards of one class each, as `beit data pack` makes of class folders: the worst case."""
    print("| shards | batch | lanes x mixed | shards in a batch: full, shards | neighbours "
          "in the data in one batch: full, shards |")  # fmt: skip
    for shards, each, batch in ((100, 1000, 256), (320, 1000, 1024), (3125, 4544, 2048)):
        counts = np.full(shards, each)
        by_shards = ShardOrder(counts, 0, batch)
        cells = [_mixing(order, each, batch) for order in (FullOrder(shards * each, 0), by_shards)]
        columns = " | ".join(", ".join(pair) for pair in zip(*cells, strict=True))
        print(f"| {shards:,} of {each:,} | {batch:,} | {by_shards.lanes} x {by_shards.mixed} | "
              f"{columns} |")  # fmt: skip


def _mixing(order: Order, each: int, batch: int) -> tuple[str, str]:
    steps = order.length // batch
    chosen = np.linspace(0, steps - 1, min(steps, 200)).astype(int)
    batches = [order.indices(0, np.arange(batch) + step * batch) for step in chosen]
    classes = np.mean([len(np.unique(some // each)) for some in batches])
    near = np.mean([(np.diff(np.sort(some)) == 1).sum() for some in batches])
    return f"{classes:.1f}", f"{near:.2f}"


def billion() -> None:
    shards, each, world, batch, image = 100_000, 10_000, 512, 4096, 110_000
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        _pretend(Path(folder), shards, each, image)
        tracemalloc.start()
        begun = time.perf_counter()
        listed = shard_parts(folder)
        assert listed is not None
        source = open_shards(listed[""])
        opened = time.perf_counter() - begun
        laid = source.shards()
        order = ShardOrder(laid.counts, 0, batch)
        first = _step(order, 0, 5, batch, world)
        anywhere = [
            _step(order, int(step), 5, batch, world) for step in rng.integers(10**7, size=5)
        ]
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    names = Names(f"photos/{number:012d}.jpg".encode() for number in range(each))
    numbers = np.arange(each, dtype=np.int64)
    index = ShardIndex(names, numbers, numbers, numbers.astype(np.int32), (), (), each * image)
    index_bytes = len(write_index(index, Stamp(1, "")))
    touched, needed = _touched(source, order, batch, world)
    per_process = touched * index_bytes
    node = GPUS_PER_NODE * (held + (WORKERS + 1) * min(per_process, INDEXES * index_bytes))
    print(f"{shards:,} shards, {shards * each:,} images, {world} processes, batch {batch:,}: "
          f"{order.lanes} lanes, {order.mixed} shards mixed in each")  # fmt: skip
    print(f"manifest opened in {opened:.1f} s, held {held / 1e6:.0f} MB by a process of training "
          "and shared with its workers")  # fmt: skip
    print(f"index of a shard: {index_bytes / 1e6:.2f} MB; a process holds {touched} at most")
    print(f"a node of {GPUS_PER_NODE} processes with {WORKERS} workers each: {node / GB:.2f} GB")
    print(f"order of the first step: {first * 1e3:.0f} ms; of any other: "
          f"{max(anywhere) * 1e3:.0f} ms")  # fmt: skip
    size = each * image
    print(f"shards of the first 100 batches of a node: {needed}, {needed * size / GB:.1f} GB;"
          f" at 200 MB/s the first is there after {size / 200e6:.1f} s, all after "
          f"{needed * size / 200e6:.0f} s")  # fmt: skip


def _pretend(folder: Path, shards: int, each: int, image: int) -> None:
    names = [f"{number:06d}.tar" for number in range(shards)]
    about = {
        "fingerprint": "0" * 32, "classes": [], "images": [each] * shards,
        "bytes": [each * image] * shards, "sha256": [os.urandom(32).hex() for _ in names],
    }  # fmt: skip
    manifest = {"format": FORMAT, "parts": {"": names}, "about": {"": about}}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _step(order: Order, step: int, rank: int, batch: int, world: int) -> float:
    begun = time.perf_counter()
    step_samples(step, order=order, batch=batch, rank=rank, world=world, micro_batch=batch // world)
    return time.perf_counter() - begun


def _touched(source: ShardSource, order: Order, batch: int, world: int) -> tuple[int, int]:
    """The shards that one process reads from in a hundred steps, and that its node does."""
    ranks: list[set[int]] = []
    for rank in range(GPUS_PER_NODE):
        found: set[int] = set()
        for step in range(100):
            (places,) = step_samples(
                step, order=order, batch=batch, rank=rank, world=world, micro_batch=batch // world
            )
            found.update(source.shard_numbers(np.array([index for _, index in places])).tolist())
        ranks.append(found)
    return max(map(len, ranks)), len(set().union(*ranks))


def cost() -> None:
    """ImageNet-22k: 14.2 million images of 110 kB, 150 epochs, batch 2,048, shards of 500 MB.

    `per_gpu` images a second is a goal and not measured; a core reads 510
    (docs/notes/performance.md).
    """
    images, size, epochs, batch, shard = 14_197_122, 110e3, 150, 2048, 500e6
    per_gpu, per_core = 2500.0, 510.0
    shards = int(images * size / shard)
    lanes = ShardOrder(np.full(shards, images // shards), 0, batch).lanes
    print(f"{shards:,} shards, {lanes} lanes, {images * size / 1e12:.2f} TB")
    print("| GPUs | hours | requests | TB fetched, small caches | MB/s of a node | MB/s of the "
          "storage | cores of a node to decode | disk of a node for the cache |")  # fmt: skip
    for gpus in (8, 64, 512):
        nodes = gpus // GPUS_PER_NODE
        rate = gpus * per_gpu
        readers = max(nodes / lanes, 1)  # nodes that read the same lane
        fetches = (shards + lanes) * readers * epochs
        mixed = ShardOrder(np.full(shards, 1), 0, batch).mixed
        here = max(lanes / nodes, 1) * mixed * 2
        print(f"| {gpus} | {images * epochs / rate / 3600:.1f} | {fetches / 1e3:,.0f} thousand | "
              f"{fetches * shard / 1e12:,.0f} | {rate * size * readers / nodes / 1e6:,.0f} | "
              f"{rate * size * readers / 1e6:,.0f} | {GPUS_PER_NODE * per_gpu / per_core:.0f} | "
              f"{min(here, shards) * shard / GB:,.0f} GB |")  # fmt: skip


PARTS = {"mixing": mixing, "billion": billion, "cost": cost}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
