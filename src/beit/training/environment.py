"""What a run's numbers depend on besides its settings and images, compared when it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from beit.errors import CheckpointError


def surroundings(world: int) -> dict[str, Any]:
    """What decides the last digits: each is equal to itself bit for bit, and not to another."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "world": world,
    }


def told_of_others(before: Mapping[str, Any], world: int) -> list[str]:
    """What to say of surroundings that are others than those in the values of a checkpoint."""
    changed = [
        f"{name} {before[name]} -> {now}"
        for name, now in surroundings(world).items()
        if name in before and before[name] != now
    ]
    if not changed:
        return []
    return [
        f"going on elsewhere ({', '.join(changed)}): the numbers may differ in their last digits "
        "from those of a run that never stopped"
    ]


def check_same_parts(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise CheckpointError if a frozen part of the run, known by its hash, is another one now."""
    for name, digest in now.items():
        if before.get(name, digest) != digest:
            raise CheckpointError(
                f"the {name} is not the one the run has learned with: its weights hash to "
                f"{digest[:12]}, and then to {before[name][:12]}",
                remedy=f"bring that {name} back, or start a new run",
            )
