"""Recipes of the probes of frozen features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from beit.config.evaluate import ProbeConfig
from beit.errors import ConfigError, nearest


def small() -> ProbeConfig:
    """A labelled folder: features standardised, since few steps cannot undo their scales. Ours."""
    return ProbeConfig()


def published() -> ProbeConfig:
    """The released code: raw features, AdamW 4e-3, decay 1e-4, batch 1024, 100 epochs.

    unilm, run_linear_eval.py. The paper (appendix D) has 50 epochs, and found block 9 (base) and 14
    (large) best: 56.7 and 73.5 top-1 on ImageNet (table 9). Not run by us.
    """
    return ProbeConfig(learning_rates=(4e-3,), batch=1024, standardise=False)


def tiny() -> ProbeConfig:
    """Seconds on a CPU: for tests and first tries."""
    return ProbeConfig(
        learning_rates=(1e-3, 1e-2),
        epochs=5,
        batch=16,
        neighbours=(1, 5),
        temperatures=(0.07, 0.2),
        attentive_epochs=2,
        shots=(1, 2),
        seeds=2,
    )


RECIPES: dict[str, Callable[[], ProbeConfig]] = {
    "small": small,
    "published": published,
    "tiny": tiny,
}


def find_probe(name: str) -> ProbeConfig:
    """The config of a recipe. Raises ConfigError for an unknown name."""
    if name not in RECIPES:
        raise ConfigError(f"probe has no recipe '{name}'", remedy=nearest(name, RECIPES))
    return replace(RECIPES[name](), recipe=name)
