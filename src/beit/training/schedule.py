"""Learning rate and weight decay as functions of the step."""

from __future__ import annotations

import math
from dataclasses import replace

from beit.config.training import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear from 0 to the peak over the warm-up, both ends included, then a cosine to `min_lr`.

    The first warm-up step has learning rate 0, as published. The linear schedule is mmcv's `poly`
    of power 1 (published segmentation): it falls from the first step on, and the warm-up is a
    factor on it; its first factor is 0 here and 1e-6 there.
    """
    if config.schedule == "linear":
        left = config.min_lr + (config.lr - config.min_lr) * (1 - step / config.steps)
        return left * (min(step / config.warmup_steps, 1) if config.warmup_steps else 1)
    if step < config.warmup_steps:
        return config.lr * step / max(config.warmup_steps - 1, 1)
    return _cosine(step - config.warmup_steps, config.steps - config.warmup_steps, config.lr,
                   config.min_lr)  # fmt: skip


def weight_decay(step: int, config: TrainingConfig) -> float:
    """Constant, or a cosine to `final_weight_decay`."""
    if config.final_weight_decay is None:
        return config.weight_decay
    return _cosine(step, config.steps, config.weight_decay, config.final_weight_decay)


def _cosine(step: int, steps: int, first: float, last: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * step / steps))


def lengthened(planned: int | None, step: int, config: TrainingConfig) -> list[str]:
    """What to say of a run that goes on after `step` and is to be longer than it was planned: its
    schedule is from there on that of a run of the new length."""
    if planned is None or planned == config.steps:
        return []
    before = learning_rate(step - 1, replace(config, steps=planned)) if step else 0.0
    return [
        f"{config.steps} steps instead of {planned}: from here on the learning rate is that of a "
        f"run of {config.steps} steps, {learning_rate(step, config):.2e} in the next one after "
        f"{before:.2e} in the last"
    ]
