"""Pre-training with a token cache: the same numbers, and each view is encoded once."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import beit
from beit.config import PretrainRunConfig
from beit.config.tree import override
from beit.data.dataset import open_source
from beit.errors import ConfigError, Preempted
from beit.objectives.masked import MaskedImageModeling
from beit.recipes import find_recipe
from beit.tasks.pretraining import token_cache
from beit.tokenizers.base import VisualTokenizer
from beit.weights.load import open_tokenizer
from finished import assert_same

IMAGES, BATCH = 36, 12
QUICK: dict[str, Any] = {
    "accept_collapsed": True, "workers": 0, "quiet": True, "report": False, "device": "cpu",
    "precision": "fp32", "tokenizer_precision": "fp32", "knn_images": 0, "steps": 6,
    "batch": BATCH, "warmup_steps": 1, "log_every": 1,
}  # fmt: skip


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many images were encoded at a time."""
    counts: list[int] = []
    encode = VisualTokenizer.encode

    def count(self, images, mask=None):
        counts.append(len(images))
        return encode(self, images, mask)

    monkeypatch.setattr(VisualTokenizer, "encode", count)
    return counts


@pytest.fixture
def pretrain(trained, class_folders, tmp_path):
    def run(name: str, **changes: Any) -> Path:
        given = QUICK | {"data": str(class_folders), "tokenizer": str(trained.tokenizer)} | changes
        return beit.pretrain("tiny", out=str(tmp_path / name), **given).folder

    return run


def test_with_as_many_views_as_epochs_nothing_changes(pretrain, encoded):
    fresh = pretrain("fresh")
    assert encoded == [BATCH] * 6
    assert_same(fresh, pretrain("cached", token_views=2))
    assert encoded == [BATCH] * 12


def test_a_view_is_encoded_once(pretrain, encoded, tmp_path):
    first = pretrain("first", token_views=1, token_cache=str(tmp_path / "cache"))
    assert encoded == [BATCH] * 3
    assert not (first / "tokens").exists()
    second = pretrain("second", token_views=1, token_cache=str(tmp_path / "cache"))
    assert encoded == [BATCH] * 3
    assert_same(first, second)


@pytest.mark.parametrize("stop_after", [2, 4])
def test_stopped_and_resumed_equals_uninterrupted(pretrain, encoded, monkeypatch, stop_after):
    def after_step(self, step):
        if step + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    whole = pretrain("whole", token_views=1)
    with monkeypatch.context() as patch:
        patch.setattr(MaskedImageModeling, "after_step", after_step)
        with pytest.raises(Preempted):
            pretrain("run", token_views=1)
    assert_same(whole, pretrain("run", token_views=1, resume=True))
    assert encoded == [BATCH] * 6


def test_whatever_decides_the_tokens_has_its_own_cache(trained, class_folders, tmp_path):
    config = override(
        find_recipe("pretrain", "tiny", PretrainRunConfig),
        {"out": str(tmp_path), "token_views": 2},
    )
    visual, source = open_tokenizer(trained.tokenizer), open_source(str(class_folders))
    other = open_tokenizer(trained.tokenizer)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    smoother = open_tokenizer(trained.tokenizer)
    smoother.config = replace(smoother.config, interpolation="bilinear")
    fp32, part = torch.float32, open_source(str(class_folders / "disc"))

    def folder(visual=visual, precision=fp32, source=source, **changes: Any) -> Path:
        return token_cache(override(config, changes), visual, precision, source).folder

    folders = [
        folder(), folder(visual=other), folder(visual=smoother), folder(precision=torch.bfloat16),
        folder(source=part), folder(crop_scale=(0.3, 0.9)), folder(jitter=0.13), folder(seed=1),
    ]  # fmt: skip
    assert len(set(folders)) == len(folders)
    assert folder(token_views=5) == folder(mask_ratio=0.5) == folder(steps=7) == folders[0]


def test_options_that_would_do_nothing_are_refused():
    for options, problem in (
        ({"token_cache": "cache"}, r"token_views 0 keeps no tokens[\s\S]*--token-views"),
        ({"token_views": -1}, "token_views is -1"),
        ({"token_views": 1, "target": "pixels"}, "pixels are to be predicted"),
    ):
        with pytest.raises(ConfigError, match=problem):
            override(find_recipe("pretrain", "tiny", PretrainRunConfig), options)
