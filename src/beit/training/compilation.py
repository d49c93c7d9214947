"""How blocks are carried out in training: compiled one by one, with what kernel, what is kept."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

import torch

from beit.config.training import Compile, TrainingConfig
from beit.errors import ConfigError
from beit.objectives.base import AnyObjective

# Random numbers are drawn as without compiling, so that both train the same way.
MANNER: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}


def set_up_blocks(objective: AnyObjective, config: TrainingConfig, device: torch.device) -> None:
    """Tell the blocks what to keep for the backward pass, and which attention is wished for."""
    if config.attention == "triton":
        if device.type != "cuda":
            raise ConfigError(
                f"the Triton kernel of attention runs on a GPU, and this is {device.type}",
                remedy="use attention auto",
            )
        if importlib.util.find_spec("triton") is None:
            raise ConfigError(
                "the Triton kernel of attention needs the package triton, which is missing",
                remedy="install it, or use attention auto",
            )
    objective.set_up_blocks(config.recompute, config.attention)


def compile_blocks(objective: AnyObjective, choice: Compile, device: torch.device) -> bool:
    """Compile the blocks in place where the choice says so, and return whether it did; with them a
    frozen tokenizer.

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
    for part in objective.worth_compiling():
        part.compile(**MANNER)
    return True


def missing(device: torch.device) -> str:
    """What compiling for this device needs and does not find; empty if nothing."""
    if not any(shutil.which(name) for name in ("cc", "gcc", "g++", "clang")):
        return "there is no C compiler"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is missing"
    return ""
