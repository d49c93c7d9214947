"""Which devices there are, what they compute fast, and whether memory ran out."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from beit.errors import EXHAUSTED, FULL, NO_TEMPORARY, ConfigError

OUT_OF_MEMORY = (
    "can't allocate memory", "Cannot allocate memory", "std::bad_alloc",
    "MPS backend out of memory",
)  # fmt: skip
NO_ROOM_FOR_CODE = "could not create a primitive"
"""All that oneDNN says when there is no memory for the code that it generates at run time."""


def cores() -> int:
    """Number of processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes of main memory available; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None  # not Linux


def best_device() -> torch.device:
    """The GPU, an NVIDIA or AMD one before an Apple one, or else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name: `cpu`, `mps` (Apple), `cuda` or, of several, `cuda:1`; `auto` is a
    GPU if there is one. Of several processes on a machine, each gets a GPU of its own.

    Raises:
        ConfigError: There is no such device.
    """
    if name == "auto":
        name = best_device().type
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"there is no device '{name}'", remedy="use cpu, cuda, mps or auto"
        ) from error
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            "device mps was requested, and torch finds no Apple GPU", remedy="use device cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name} was requested, and torch finds {torch.cuda.device_count()} GPUs",
            remedy="use device cpu, or install the driver that this torch was built for",
        )
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies faster in bfloat16 than in float32.

    A GPU has it in hardware or not. A CPU has it with AVX512-BF16 or AMX; any other emulates it,
    which makes matrix products several times slower than in float32. An Apple GPU gains nothing.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of the ways in which Python and torch report a lack of memory."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    message = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or message == NO_ROOM_FOR_CODE
        or any(text in message for text in OUT_OF_MEMORY)
    )


def raise_if_exhausted(error: BaseException) -> None:
    """Raise the cause of a library's error if this process ran out of memory, disk or open files.

    Such an error says nothing about the file or the model at hand.
    """
    cause: BaseException | None = error
    while cause is not None:
        if is_out_of_memory(cause) or (isinstance(cause, OSError) and _is_exhausted(cause)):
            raise cause
        cause = cause.__cause__ or cause.__context__


def _is_exhausted(error: OSError) -> bool:
    ran_out = error.errno in FULL or error.errno in EXHAUSTED
    return ran_out or (error.strerror or "").startswith(NO_TEMPORARY)
