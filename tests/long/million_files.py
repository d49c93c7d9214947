"""A million files are listed and ready: python tests/long/million_files.py [--count N]"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from PIL import Image

from beit.config.data import LoaderConfig, ViewConfig
from beit.data.dataset import open_source
from beit.data.images import check_readable
from beit.data.loader import Loader
from beit.data.sources import ImageSource
from beit.data.transforms import SingleView

BATCH = 256
FLAGS = os.O_WRONLY | os.O_CREAT


def make(root: str, count: int, folders: int) -> None:
    """Small images, each a file of its own, spread over folders."""
    file = io.BytesIO()
    Image.new("L", (1, 1), 200).save(file, "PNG")
    for number in range(folders):
        Path(root, f"class {number}").mkdir()
    for number in range(count):
        handle = os.open(f"{root}/class {number % folders}/{number:08d}.png", FLAGS)
        os.write(handle, file.getvalue())
        os.close(handle)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _first_batch(source: ImageSource) -> Loader:
    """All that a run does with its images before its first step."""
    check_readable(source)
    loader = Loader(
        source,
        SingleView(config=ViewConfig(), size=(16, 16)),
        channels=3,
        batch=BATCH,
        micro_batch=BATCH,
        seed=0,
        config=LoaderConfig(workers=0, cache=False),
    )
    with closing(loader.batches(0, 1)) as batches:
        assert len(next(batches).keys) == BATCH
    return loader


def _one_batch_of(loader: Loader, epoch: int, images: int) -> None:
    step = epoch * (images // BATCH)
    with closing(loader.batches(step, step + 1)) as batches:
        next(batches)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        make(root, given.count, given.folders)
        before, used = _peak(), time.process_time()
        began = time.monotonic()
        source = open_source(root)
        listed = time.monotonic()
        source.fingerprint()
        known = time.monotonic()
        loader = _first_batch(source)
        ready = time.monotonic()
        found = {
            "files": len(source),
            "seconds_to_list": round(listed - began, 1),
            "seconds_to_know_again": round(known - listed, 1),
            "seconds_until_ready": round(ready - began, 1),
            "processor_seconds": round(time.process_time() - used, 1),
            "peak_bytes_per_file": round((_peak() - before) / len(source)),
        }
        _one_batch_of(loader, 1, len(source))  # the order of an epoch is held from here on
        peak = _peak()
        for epoch in range(2, 2 + given.epochs):
            _one_batch_of(loader, epoch, len(source))
        found["epochs"] = given.epochs
        found["growth_in_these_epochs_bytes_per_file"] = round((_peak() - peak) / len(source), 2)
        print(json.dumps(found))
    return 0 if found["files"] == given.count else 1


if __name__ == "__main__":
    sys.exit(main())
