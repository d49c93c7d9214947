"""What to train in a given time: backbones from small to large, and the views that each needs.

`--time` measures a few real steps of a row, and goes on to the next one as long as that would see
enough images. The settings are those of the recipe `small`, except for what a row states.
`measured` describes the results of a row; where it is empty, the row was not measured: its numbers
follow the published recipes, and `enough` is a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One backbone for a small budget."""

    name: str
    device: Literal["cpu", "cuda"]
    width: int
    depth: int
    heads: int
    size: int
    """The largest image size in pixels; smaller images get smaller models."""
    patch: int
    batch: int
    lr: float
    tokenizer: str
    """The recipe of the tokenizer that pre-training trains first."""
    enough: int
    """The number of views of images from which on this row is preferred to the one above."""
    measured: str = ""


BUDGETS = (
    Budget(name="six blocks of width 128", device="cpu", width=128, depth=6, heads=4, size=64,
           patch=8, batch=64, lr=1.5e-3, tokenizer="kmeans", enough=0,
           measured="on object scenes of 64 classes, `beit finetune --time 5m` with 10 labels per "
           "class comes to 75 % after 15m, 95 % after 1h, 25 % from scratch (docs/sizes.md)"),
    Budget(name="twelve blocks of width 192", device="cpu", width=192, depth=12, heads=3, size=96,
           patch=8, batch=128, lr=1e-3, tokenizer="kmeans", enough=600_000),
    Budget(name="small: twelve blocks of width 384", device="cpu", width=384, depth=12, heads=6,
           size=128, patch=8, batch=256, lr=7.5e-4, tokenizer="kmeans", enough=5_000_000),
    Budget(name="twelve blocks of width 192", device="cuda", width=192, depth=12, heads=3, size=112,
           patch=8, batch=256, lr=1e-3, tokenizer="kmeans", enough=0),
    Budget(name="small: twelve blocks of width 384", device="cuda", width=384, depth=12, heads=6,
           size=224, patch=16, batch=512, lr=7.5e-4, tokenizer="small", enough=2_000_000),
    Budget(name="base: twelve blocks of width 768", device="cuda", width=768, depth=12, heads=12,
           size=224, patch=16, batch=1024, lr=1e-3, tokenizer="small", enough=60_000_000),
)  # fmt: skip

LABELLED_BATCH = {"cpu": 64, "cuda": 128}
LABELLED_LR = {256: 2e-3, 512: 1e-3}
"""Learning rates of fine-tuning by the largest width to which they apply, measured for width 128
(docs/notes/small-budgets.md); wider backbones use that of their recipe."""

LIMITS: dict[str, tuple[int, int]] = {
    "tokenizer": (100, 2_000),
    "pretrain": (800, 2_000),
    "finetune": (100, 2_000),
    "segment": (130, 3_000),
}
"""For each verb, how many epochs `--time` trains at most, or how many steps if these are more:
beyond them more time brings little. 800 epochs are those of the paper on ImageNet-1k, 130 about
those of the published ADE20K runs."""


def fitting_size(budget: Budget, shortest: int) -> tuple[int, int]:
    """The size and patch of a row, in pixels, for images with this shorter side: images are not
    enlarged, and patches shrink, down to 4 pixels, until the grid has six per side."""
    side = min(budget.size, shortest)
    patch = budget.patch
    while patch > 4 and side // patch < 6:
        patch //= 2
    return max(side // patch, 4) * patch, patch
