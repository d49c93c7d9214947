"""One training: its length, batch, optimizer, precision and rhythm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beit.config.check import check_positive, check_share, check_that

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
Compile = Literal["auto", "off", "blocks"]
Recompute = Literal["off", "selective", "blocks"]
AttentionKernel = Literal["auto", "triton"]
Sharding = Literal["off", "blocks"]
Schedule = Literal["cosine", "linear"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio", "none"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What `fit` needs to know. AdamW throughout, a decay after a linear warm-up."""

    steps: int
    """Updates of the weights."""
    batch: int
    """Pictures per update, over all processes and micro-batches."""
    micro_batch: int | None = None
    """Pictures per forward and backward in one process; None: batch over processes."""
    lr: float
    """Peak learning rate (not scaled by anything)."""
    min_lr: float = 1e-5
    """Learning rate at the end."""
    schedule: Schedule = "cosine"
    """How the learning rate falls: on a cosine, or linearly as in published segmentation."""
    warmup_steps: int = 0
    """Steps of linear warm-up; the first step has learning rate 0."""
    weight_decay: float = 0.05
    """Decoupled weight decay at the start."""
    final_weight_decay: float | None = None
    """Weight decay at the end, reached on a cosine; None keeps it constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    clip: float | None = None
    """Largest global gradient norm; None does not clip."""
    skip_spikes: float | None = None
    """Leave out an update whose gradient norm is more than so many times the median of the last 64;
    None leaves out none."""
    layer_decay: float = 1.0
    """Factor on the learning rate per layer, from the head down to the embedding."""
    average: float | None = None
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
    attention: AttentionKernel = "auto"
    """Kernel of attention while the position bias learns: `triton` is our own, for a GPU, half
    precision and up to 256 tokens; `auto` leaves it out until it was raced."""
    sharding: Sharding = "off"
    """Of several processes, each holds only a part of the weights, gradients and optimizer, and
    `blocks` are put together where they are computed: for models that do not fit otherwise. Same
    numbers, less memory, more communication. One process has nothing to share out."""
    device: Device = "auto"
    """Where to train."""
    seed: int = 0
    """Decides initial weights, order, augmentation and masks."""
    log_every: int = 20
    """Steps between lines of the journal."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 evaluates at the end only."""
    save_every: int = 500
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Newest checkpoints that stay on disk."""
    tracker: tuple[TrackerName, ...] = ("tensorboard",)
    """Who is told of the run beside its folder; several may be named, or `none`."""
    process_timeout: float = 600.0
    """Seconds that one of several processes waits for the others before the run ends."""

    def __post_init__(self) -> None:
        check_positive(self, "steps", "batch", "lr", "epsilon", "log_every", "save_every", "keep",
                       "process_timeout")  # fmt: skip
        check_share(self, "layer_decay")
        check_that(self.layer_decay > 0, "layer_decay is 0", "use a factor above 0, up to 1")
        check_that(
            0 <= self.min_lr <= self.lr,
            f"min_lr {self.min_lr} is not between 0 and lr {self.lr}",
            "lower min_lr or raise lr",
        )
        check_that(
            0 <= self.warmup_steps < self.steps,
            f"warmup_steps {self.warmup_steps} leaves nothing of {self.steps} steps",
            f"use fewer warm-up steps than steps (--warmup-steps {self.steps // 10}), or the "
            "recipe tiny",
        )
        check_that(
            self.evaluate_every >= 0 and self.weight_decay >= 0,
            f"evaluate_every {self.evaluate_every} or weight_decay {self.weight_decay} is negative",
            "use 0 or more",
        )
        check_that(
            self.average is None or 0 < self.average < 1,
            f"average {self.average} is not a decay between 0 and 1",
            "use e.g. 0.999, or None",
        )
        check_that(
            len({*self.tracker}) == len(self.tracker)
            and ("none" not in self.tracker or len(self.tracker) == 1),
            f"tracker is {' '.join(self.tracker)}",
            "name each tracker once, or none",
        )
        check_that(
            self.clip is None or self.clip > 0,
            f"clip {self.clip} would stop learning",
            "use a positive norm, or None",
        )
        check_that(
            self.skip_spikes is None or self.skip_spikes > 1,
            f"skip_spikes {self.skip_spikes} would leave out every second update",
            "use e.g. 10, or None",
        )
        check_that(
            self.micro_batch is None
            or (0 < self.micro_batch <= self.batch and self.batch % self.micro_batch == 0),
            f"micro_batch {self.micro_batch} does not divide batch {self.batch}",
            "use a divisor of the batch",
        )
