"""Which devices there are, and what they do fast."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from beit.errors import ConfigError


def cores() -> int:
    """Processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes of main memory that can be had; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None  # not Linux


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name: `cpu`, `cuda` or, of several, `cuda:1`.

    Raises ConfigError for one that is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device '{name}'", remedy="use cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name} was requested, and torch finds {torch.cuda.device_count()} GPUs",
            remedy="use device cpu, or install the driver that this torch was built for",
        )
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there.

    A GPU has it in hardware or not. A CPU has it with AVX512-BF16 or AMX; any other emulates it,
    which makes matrix products several times slower than in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
