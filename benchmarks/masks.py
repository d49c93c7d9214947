"""Masks: ours, and blocks drawn on an array as the paper's algorithm 1 is written down."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np

from beit.config import BlockMasking, PublishedBlockMasking
from beit.masking import build_sampler
from benchmarks.race import Clock, Contest, Contestant
from benchmarks.setting import Setting

GRID = (14, 14)
HIDDEN = 75
SMALLEST, LARGEST_ASPECT = 16, 1 / 0.3
DRAWS = 500


def contests(_setting: Setting) -> Iterator[Contest]:
    """Each draws the masks of 500 images."""
    chance = random.Random(0)
    samplers = {"exact count": BlockMasking(), "at most": PublishedBlockMasking()}
    for case, config in samplers.items():
        sampler = build_sampler(config, GRID)
        yield Contest(
            case=f"{DRAWS} masks, {case}",
            contestants={
                "beit": _drawing(lambda sampler=sampler: sampler(chance)),
                "arrays": _drawing(lambda: algorithm_1(chance)),
            },
        )


def _drawing(draw: object) -> Contestant:
    def work(_clock: Clock) -> None:
        for _ in range(DRAWS):
            draw()

    return work


def algorithm_1(chance: random.Random) -> np.ndarray:
    """Algorithm 1 of the paper on an array, until the next block would hide too many."""
    mask = np.zeros(GRID, dtype=bool)
    for _ in range(1000):
        left = HIDDEN - int(mask.sum())
        if left < SMALLEST // 4:
            break
        area = chance.uniform(SMALLEST, max(left, SMALLEST))
        limit = math.log(LARGEST_ASPECT)
        aspect = math.exp(chance.uniform(-limit, limit))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < height < GRID[0] and 0 < width < GRID[1]):
            continue
        top, start = chance.randint(0, GRID[0] - height), chance.randint(0, GRID[1] - width)
        block = mask[top : top + height, start : start + width]
        if 0 < block.size - int(block.sum()) <= left:
            block[:] = True
    return mask
