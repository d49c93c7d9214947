"""One training: its length, batch, optimizer, precision and rhythm."""

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
    """What `fit` needs to know. AdamW throughout, a decay after a linear warm-up."""

    steps: PositiveInt
    """Updates of the weights."""
    batch: PositiveInt
    """Images per update, over all processes and micro-batches."""
    micro_batch: PositiveInt | None = None
    """Images per forward and backward in one process; None: batch over processes."""
    lr: PositiveFloat
    """Peak learning rate (not scaled by anything)."""
    min_lr: NonNegativeFloat = 1e-5
    """Learning rate at the end."""
    schedule: Schedule = "cosine"
    """How the learning rate falls: on a cosine, or linearly as in published segmentation."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up; the first step has learning rate 0."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay at the start."""
    final_weight_decay: NonNegativeFloat | None = None
    """Weight decay at the end, reached on a cosine; None keeps it constant."""
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.999)
    """AdamW's decay rates."""
    epsilon: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    clip: PositiveFloat | None = None
    """Largest global gradient norm; None does not clip."""
    skip_spikes: Annotated[float, Range(1, math.inf, above=True)] | None = None
    """Leave out an update whose gradient norm is more than so many times the median of the last 64;
    None leaves out none."""
    layer_decay: PositiveFraction = 1.0
    """Factor on the learning rate per layer, from the head down to the embedding."""
    average: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    """Decay of the exponential moving average of the weights; None keeps none."""
    precision: Precision = "auto"
    """Autocast type; `auto` is bf16 where the hardware has it, else fp32."""
    compile: Compile = "auto"
    """Compile the blocks of the model, which takes a while in the first steps; `auto` does so on a
    GPU where a compiler is found."""
    recompute: Recompute = "off"
    """Keep less for the backward pass and compute it again there: `selective` keeps the results of
    linear layers and fused attention, `blocks` only what enters a block. Same numbers, less memory,
    more time."""
    sharding: Sharding = "off"
    """Of several processes, each holds only a part of the weights, gradients and optimizer, and
    `blocks` are put together where they are computed: for models that do not fit otherwise. Same
    numbers, less memory, more communication. With one process nothing changes."""
    device: Device = "auto"
    """Where to train: `auto` is a GPU if there is one; `mps` is that of Apple."""
    seed: NonNegativeInt = 0
    """Decides initial weights, order, augmentation and masks."""
    order: Order = "auto"
    """How an epoch is shuffled: `full` mixes all images, `shards` some shards at a time, so that
    each is fetched once; `auto` takes `shards` where the images are shards in object storage,
    else `full`; `sorted` is the full shuffle of older runs, which go on with it."""
    log_every: PositiveInt = 20
    """Steps between log lines."""
    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations; 0 evaluates at the end only."""
    patience: PositiveInt | None = None
    """Evaluations in a row without a better score after which the run ends; the best model is kept
    anyhow. None: it never ends early."""
    save_every: PositiveInt = 500
    """Steps between checkpoints; the last step is always saved."""
    keep: PositiveInt = 2
    """Newest checkpoints that stay on disk."""
    tracker: tuple[TrackerName, ...] = ("tensorboard",)
    """Where the run is tracked beside its folder; several may be named, or `none`."""
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
            f"patience is {self.patience}, and nothing is evaluated before the end",
            f"say how often: --evaluate-every {max(self.steps // 20, 1)}",
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
