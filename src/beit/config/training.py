"""One training: its length, batch, optimizer and precision, and how often it logs and saves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from beit.config.validation import (
    Config,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Range,
    require,
)

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Compile = Literal["auto", "off", "blocks"]
Recompute = Literal["off", "selective", "blocks"]
Sharding = Literal["off", "blocks"]
Schedule = Literal["cosine", "linear"]
Order = Literal["auto", "full", "shards", "sorted"]
"""How an epoch is shuffled; `sorted` is the full shuffle of older runs."""
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio", "none"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """What `fit` needs to know: AdamW, a linear warm-up, then a falling learning rate."""

    steps: PositiveInt
    """Number of weight updates."""
    batch: PositiveInt
    """Images per update, summed over all processes and micro-batches."""
    micro_batch: PositiveInt | None = None
    """Images per forward and backward pass in one process; None: the batch divided by the number of
    processes."""
    lr: PositiveFloat
    """Peak learning rate; it is not scaled with the batch."""
    min_lr: NonNegativeFloat = 1e-5
    """Learning rate at the end of the run."""
    schedule: Schedule = "cosine"
    """How the learning rate falls: along a `cosine`, or `linear` as in published segmentation."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly, from 0 in the first one."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay at the start of the run."""
    final_weight_decay: NonNegativeFloat | None = None
    """Weight decay at the end, reached along a cosine; None keeps it constant."""
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.999)
    """AdamW's decay rates of the two moving averages."""
    epsilon: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    clip: PositiveFloat | None = None
    """Clip the global gradient norm to this value; None does not clip."""
    skip_spikes: Annotated[float, Range(1, math.inf, above=True)] | None = None
    """Skip an update whose gradient norm exceeds this many times the median of the last 64; None
    skips none."""
    layer_decay: PositiveFraction = 1.0
    """Factor by which the learning rate shrinks with each layer, from the head down to the
    embedding."""
    average: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    """Decay of the exponential moving average of the weights; None keeps no average."""
    precision: Precision = "auto"
    """Autocast type; `auto` is bf16 where the hardware supports it, otherwise fp32."""
    compile: Compile = "auto"
    """Compile the model's blocks, which makes the first steps slow: `blocks` does, `off` does not,
    `auto` does so on a GPU if a compiler is found."""
    recompute: Recompute = "off"
    """Store less for the backward pass and compute it again there: `selective` stores the results
    of linear layers and fused attention, `blocks` only the input of each block. Same numbers, less
    memory, more time."""
    sharding: Sharding = "off"
    """`blocks` splits weights, gradients and optimizer state among the processes, and gathers each
    block only while it is computed, for models that do not fit otherwise. Same numbers, less
    memory, more communication; no effect with one process."""
    device: Device = "auto"
    """Where to train: `auto` takes a GPU if there is one; `mps` is an Apple GPU."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, the order of the images, augmentation and masks."""
    order: Order = "auto"
    """How an epoch is shuffled: `full` mixes all images; `shards` mixes a few shards at a time, so
    that each is fetched once; `auto` takes `shards` for shards in object storage, otherwise `full`;
    `sorted` is the full shuffle of older runs, which they keep when resumed."""
    log_every: PositiveInt = 20
    """Steps between log lines."""
    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations; 0 evaluates only at the end."""
    patience: PositiveInt | None = None
    """End the run after this many evaluations in a row without a better score (the best model is
    kept in any case); None never ends it early."""
    save_every: PositiveInt = 500
    """Steps between checkpoints; the last step is always saved."""
    keep: PositiveInt = 2
    """Number of newest checkpoints to keep on disk."""
    tracker: tuple[TrackerName, ...] = ("tensorboard",)
    """Where metrics are logged besides the run folder: one or several names, or `none`."""
    process_timeout: PositiveFloat = 600.0
    """Seconds that one of several processes waits for the others before the run ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.min_lr <= self.lr,
            f"min_lr {self.min_lr} is not between 0 and lr {self.lr}",
            "lower min_lr or raise lr",
        )
        require(
            self.warmup_steps < self.steps,
            f"warmup_steps {self.warmup_steps} leaves nothing of {self.steps} steps",
            f"use fewer warm-up steps than steps (--warmup-steps {self.steps // 10}), or the "
            "recipe tiny",
        )
        require(
            self.patience is None or self.evaluate_every > 0,
            f"patience is {self.patience}, but nothing is evaluated before the end",
            f"evaluate more often: --evaluate-every {max(self.steps // 20, 1)}",
        )
        require(
            len({*self.tracker}) == len(self.tracker)
            and ("none" not in self.tracker or len(self.tracker) == 1),
            f"tracker is {' '.join(self.tracker)}",
            "name each tracker once, or none",
        )
        require(
            self.micro_batch is None
            or (self.micro_batch <= self.batch and self.batch % self.micro_batch == 0),
            f"micro_batch {self.micro_batch} does not divide batch {self.batch}",
            "use a divisor of the batch",
        )
