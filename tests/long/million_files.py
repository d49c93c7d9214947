"""A million files are listed and ready: python tests/long/million_files.py [--count N]"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from beit.data.order import step_samples
from beit.data.sources import open_source


def make(root: str, count: int, folders: int) -> None:
    """Empty files, spread over folders; nothing in them is read."""
    for number in range(folders):
        Path(root, f"class {number}").mkdir()
    for number in range(count):
        os.close(os.open(f"{root}/class {number % folders}/{number:08d}.jpg", os.O_CREAT))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        make(root, given.count, given.folders)
        before, began, used = _peak(), time.monotonic(), time.process_time()
        source = open_source(root)
        first = [source.key(index) for index in (0, len(source) - 1)]
        step_samples(0, length=len(source), seed=0, batch=256, micro_batch=256)
        found = {
            "files": len(source),
            "seconds": round(time.monotonic() - began, 1),
            "processor_seconds": round(time.process_time() - used, 1),
            "peak_bytes_per_file": round((_peak() - before) / len(source)),
        }
        peak = _peak()
        for epoch in range(10):
            step = epoch * (len(source) // 256)
            step_samples(step, length=len(source), seed=0, batch=256, micro_batch=256)
        found["growth_in_10_epochs_bytes_per_file"] = round((_peak() - peak) / len(source))
        print(json.dumps(found | {"first_and_last": first}))
    return 0 if found["files"] == given.count else 1


if __name__ == "__main__":
    sys.exit(main())
