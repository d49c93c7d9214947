"""What a record says of the machine, and the fastest matrix product it does."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.race import WHOLE, Clock

ROOT = Path(__file__).parents[1]
PACKAGES = ("beit", "torch", "torchvision", "timm", "transformers", "dall-e", "numpy", "pillow")
SHAPE = (1576, 768, 3072)
"""The first linear map of an MLP of base, for eight images: rows, inputs, outputs."""


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, processor, load and the state of the code."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "keeps_pages": "MALLOC_MMAP_THRESHOLD_" in os.environ,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """The commit, with a + if files it knows were changed since."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def matrix_peak(
    device: torch.device, precision: torch.dtype, clock: Clock, *, seconds: float = 2.0
) -> float:
    """The most GFLOP per second of a matrix product, found by trying for some time."""
    rows, inputs, outputs = SHAPE
    left = torch.randn(rows, inputs, device=device).to(precision)
    right = torch.randn(outputs, inputs, device=device).to(precision).t()
    best, end = math.inf, time.monotonic() + seconds
    while time.monotonic() < end:
        clock.start()
        left @ right
        best = min(best, clock.stop()[WHOLE])
    return 2 * rows * inputs * outputs / best / 1e9
