"""Which devices there are, and what they do fast."""

from __future__ import annotations

import os

import torch

from beit.errors import ConfigError


def cores() -> int:
    """Processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name: `cpu`, `cuda` or, of several, `cuda:1`; `auto` is a GPU where there
    is one. Of several processes on a machine each gets a GPU of its own.

    Raises ConfigError for one that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device '{name}'", remedy="use cpu, cuda or auto") from error
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


def is_out_of_memory(error: BaseException) -> bool:
    """True for all the ways in which Python and torch report that there is no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
