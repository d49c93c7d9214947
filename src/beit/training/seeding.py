"""Every global source of chance, set from a few numbers."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(*parts: int) -> None:
    """Make every global generator a function of the parts; nothing random is left to restore."""
    mixed = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(mixed >> np.uint64(1)))
    np.random.seed(int(mixed & np.uint64(0xFFFFFFFF)))
    random.seed(int(mixed))
