"""How a step runs on its device: its precision, its compiled blocks, memory that runs out."""

from __future__ import annotations

import importlib.util
import shutil
from contextlib import AbstractContextManager
from typing import Any

import torch

from beit.config.training import Compile, Precision
from beit.errors import ConfigError, ResourceError
from beit.hardware import multiplies_bfloat16
from beit.objectives.base import AnyObjective

# Random numbers are drawn as without compiling, so that both train the same way.
COMPILER: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The autocast type: as requested, or bfloat16 where the hardware multiplies it fast.

    Raises:
        ConfigError: fp16 is requested, and the device cannot train in it.
    """
    if precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            "fp16 training needs a GPU of NVIDIA or AMD",
            remedy=f"use precision bf16 or fp32 on {device.type}",
        )
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Run matrix products in `dtype`, and in float32 everything that needs it."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def compile_blocks(objective: AnyObjective, choice: Compile, device: torch.device) -> bool:
    """Compile the blocks, and a frozen tokenizer, in place; returns whether this was done.

    A block is compiled once for all that are alike. Names of weights do not change, and copies of
    the model are not compiled. The compiling happens in the first steps.

    Args:
        objective: Names the parts that are worth compiling.
        choice: "auto" compiles on a CUDA device if nothing is missing for it.
        device: The device that the objective runs on.

    Raises:
        ConfigError: Compiling is requested, and something is missing for it.
    """
    problem = compiler_problem(device)
    if choice == "off" or (choice == "auto" and (device.type != "cuda" or problem)):
        return False
    if problem:
        raise ConfigError(
            f"the blocks cannot be compiled: {problem}", remedy="install it, or use compile off"
        )
    for part in objective.worth_compiling():
        part.compile(**COMPILER)
    return True


def compiler_problem(device: torch.device) -> str:
    """What is missing to compile for this device; empty if nothing is."""
    if not any(shutil.which(name) for name in ("cc", "gcc", "g++", "clang")):
        return "there is no C compiler"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is missing"
    return ""


def free_cached(device: torch.device) -> None:
    """Release the GPU memory that torch keeps without using it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def smaller_micro_batch(micro_batch: int, delivered: int) -> int:
    """The largest divisor of what the loader delivers that is at most half of a micro-batch.

    Raises:
        ResourceError: A single image was already too much.
    """
    if micro_batch == 1:
        raise ResourceError(
            "memory ran out with a single image in the micro-batch",
            remedy="use a smaller model or --size, or a machine with more memory",
        )
    return max(size for size in range(1, micro_batch // 2 + 1) if delivered % size == 0)
