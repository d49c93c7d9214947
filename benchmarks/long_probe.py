"""`python -m benchmarks.long_probe [--images N] [--width N] [--classes N]`: linear heads and
neighbours of random features of one block, as many as ImageNet-1k has, from a table on disk.

Prints seconds and the peak of the memory that the process itself holds (anonymous pages; pages of
the table are the system's to keep or drop).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import torch

from beit.config.evaluate import ProbeConfig
from beit.evaluation.features import FeatureTable
from beit.evaluation.rows import on_disk
from beit.evaluation.sweeps import BOTH, Stored, sweep_linear, sweep_neighbours

GB = 1e9


class Peak:
    """The most memory that was held, looked at twenty times a second."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            held = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.bytes = max(self.bytes, held * 1024)

    def end(self) -> int:
        self._over.set()
        self._thread.join()
        return self.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--validation", type=int, default=2_048)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    config = ProbeConfig(
        epochs=asked.epochs, batch=1024, learning_rates=(4e-3,), neighbours=(20,),
        temperatures=(0.07,),
    )  # fmt: skip
    peak = Peak()
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"train": asked.images, "validation": asked.validation}
        tables = {part: _table(n, asked.width, asked.classes, folder) for part, n in sizes.items()}
        for name, measure in {
            "linear heads": lambda: sweep_linear(
                BOTH, tables, classes=asked.classes, config=config, stored=Stored(12, (8,)),
                device=device,
            ),
            "neighbours": lambda: sweep_neighbours(tables, config=config, device=device),
        }.items():  # fmt: skip
            begun = time.perf_counter()
            best = measure().best
            print(f"{name}: {best.validation:.1%}, {time.perf_counter() - begun:.0f} s", flush=True)
    print(f"{asked.images:,} images x {2 * asked.width} numbers, {asked.classes} classes: "
          f"at most {peak.end() / GB:.2f} GB held")  # fmt: skip


def _table(images: int, width: int, classes: int, folder: str) -> FeatureTable:
    """Noise, and a weak sign of the class in the mean patch."""
    chance = torch.Generator().manual_seed(images)
    signs = torch.randn(classes, width, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(classes, (images,), generator=chance)
    parts = [on_disk((images, 1, width), Path(folder)) for _ in range(2)]
    for start in range(0, images, 8192):
        rows = slice(start, min(start + 8192, images))
        for part, strength in zip(parts, (0.3, 0.0), strict=True):
            noise = torch.randn(rows.stop - rows.start, width, generator=chance)
            part[rows, 0] = noise + strength * signs[targets[rows]]
    return FeatureTable(parts[0], targets, (), parts[1])


if __name__ == "__main__":
    main()
