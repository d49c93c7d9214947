"""The schedules are the published ones, step by step."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from beit.config import TrainingConfig
from beit.training.optim import learning_rate, weight_decay

CONFIG = TrainingConfig(
    steps=100, batch=1, lr=2e-3, min_lr=1e-5, warmup_steps=11, weight_decay=0.05
)


def published(first: float, last: float, steps: int, warmup: int) -> np.ndarray:
    """`cosine_scheduler` of microsoft/unilm, beit/utils.py."""
    rest = np.arange(steps - warmup)
    cosine = last + 0.5 * (first - last) * (1 + np.cos(math.pi * rest / len(rest)))
    return np.concatenate([np.linspace(0, first, warmup), cosine])


def test_learning_rate_is_as_published():
    rates = [learning_rate(step, CONFIG) for step in range(100)]
    assert rates == pytest.approx(published(2e-3, 1e-5, 100, 11))


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.0), (5, 1e-3), (10, 2e-3), (11, 2e-3), (100, 1e-5)],
)
def test_learning_rate_at_its_corners(step, rate):
    assert learning_rate(step, CONFIG) == pytest.approx(rate)


def test_cosine_is_half_way_in_the_middle():
    config = TrainingConfig(steps=110, batch=1, lr=2e-3, min_lr=1e-5, warmup_steps=10)
    assert learning_rate(60, config) == pytest.approx((2e-3 + 1e-5) / 2)


@pytest.mark.parametrize("warmup", [0, 1])
def test_shortest_warm_up(warmup):
    config = TrainingConfig(steps=10, batch=1, lr=1.0, min_lr=0.0, warmup_steps=warmup)
    assert learning_rate(0, config) == (0.0 if warmup else 1.0)
    assert learning_rate(1, config) == pytest.approx(1.0, abs=0.05)


def test_weight_decay_is_constant_or_a_cosine():
    assert {weight_decay(step, CONFIG) for step in range(100)} == {0.05}
    config = TrainingConfig(steps=100, batch=1, lr=1.0, weight_decay=0.1, final_weight_decay=0.5)
    decays = [weight_decay(step, config) for step in range(100)]
    assert decays == pytest.approx(published(0.1, 0.5, 100, 0))
    assert weight_decay(50, config) == pytest.approx(0.3)


@pytest.mark.parametrize("step", [0, 1, 9, 10, 50, 99])
def test_linear_schedule_falls_from_the_first_step(step):
    """As mmcv: `poly` of power 1, the linear warm-up a factor on it."""
    config = TrainingConfig(
        steps=100, batch=1, lr=1.0, min_lr=0.1, warmup_steps=10, schedule="linear"
    )
    regular = (1 - step / 100) * 0.9 + 0.1
    expected = regular * (1 - (1 - step / 10)) if step < 10 else regular
    assert learning_rate(step, config) == pytest.approx(expected)


def test_linear_schedule_without_warmup_starts_at_the_peak():
    assert learning_rate(0, replace(CONFIG, warmup_steps=0, schedule="linear")) == CONFIG.lr
