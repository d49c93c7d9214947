"""A contestant in a process of its own: what it switches in other libraries stays there."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch

from benchmarks.quality import contestant


def main(who: str, steps: str, seed: str, folder: str) -> None:
    """Train for a number of steps; with a seed, also measure."""
    import timm

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    timm.layers.set_fused_attn(False)  # fused, it costs twice as much on a CPU in bfloat16
    if seed == "train":
        contestant.learn(who, Path(folder), steps=int(steps), seed=0)
        return
    found = contestant.compete(who, Path(folder), steps=int(steps), seed=int(seed))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
