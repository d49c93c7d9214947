"""Compiling what a model repeats: its blocks, one by one, which share the result."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

import torch

from beit.config.training import Compile
from beit.errors import ConfigError
from beit.objectives.base import AnyObjective

# Random numbers are drawn as without compiling, so that both train the same way.
MANNER: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}


def compile_blocks(objective: AnyObjective, choice: Compile, device: torch.device) -> bool:
    """Compile the blocks in place where the choice says so, and return whether it did.

    A block is compiled once for all that are alike. Names of weights do not change, and copies of
    the model are not compiled. The compiling happens in the first steps.
    """
    if choice == "off" or (choice == "auto" and (device.type != "cuda" or missing(device))):
        return False
    problem = missing(device)
    if problem:
        raise ConfigError(
            f"the blocks cannot be compiled: {problem}", remedy="install it, or use compile off"
        )
    for block in objective.blocks():
        block.compile(**MANNER)
    return True


def missing(device: torch.device) -> str:
    """What compiling for this device needs and does not find; empty if nothing."""
    if not any(shutil.which(name) for name in ("cc", "gcc", "g++", "clang")):
        return "there is no C compiler"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is missing"
    return ""
