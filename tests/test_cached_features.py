"""VQ-KD with its teacher's features on disk: the same numbers, and the teacher is asked once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import beit
from beit.config import TokenizerRunConfig
from beit.config.tree import override
from beit.data.dataset import open_source
from beit.errors import CheckpointError, ConfigError
from beit.recipes import find_recipe
from beit.tasks.tokenizing import feature_cache, rebuilding
from beit.tokenizers.teachers import Teacher
from beit.tokenizers.token_cache import FeatureCache
from beit.weights.load import open_teacher
from finished import assert_same

BATCH = 12
QUICK: dict[str, Any] = {
    "workers": 0, "quiet": True, "report": False, "device": "cpu", "precision": "fp32", "steps": 6,
    "batch": BATCH, "warmup_steps": 1, "log_every": 1, "held_out": 0.0, "revive_every": 2,
    "evaluate_every": 0,
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many images the teacher was shown at a time."""
    counts: list[int] = []
    forward = Teacher.forward

    def count(self, pixels, grid):
        counts.append(len(pixels))
        return forward(self, pixels, grid)

    monkeypatch.setattr(Teacher, "forward", count)
    return counts


@pytest.fixture
def distill(trained, class_folders, tmp_path):
    """36 images, three steps an epoch."""

    def run(name: str, **changes: Any) -> Path:
        given = QUICK | {"data": str(class_folders), "teacher": str(trained.pretrained)} | changes
        return beit.tokenizer("vqkd-tiny", out=str(tmp_path / name), **given).folder

    return run


def test_with_as_many_views_as_epochs_nothing_changes(distill, asked):
    fresh = distill("fresh", jitter=0.2, pipeline="fast")
    assert asked == [BATCH] * 6
    assert_same(fresh, distill("cached", jitter=0.2, pipeline="fast", teacher_views=2))
    assert asked == [BATCH] * 12


def test_the_teacher_is_asked_once_for_a_view(distill, asked, tmp_path, monkeypatch):
    """And the numbers are those of asking it for the same view in every epoch."""
    with monkeypatch.context() as patch:
        patch.setattr(
            FeatureCache, "features", lambda self, views, compute: compute(list(range(len(views))))
        )
        uncached = distill("uncached", teacher_views=1)
    assert asked == [BATCH] * 6
    asked.clear()
    first = distill("first", teacher_views=1, teacher_cache=str(tmp_path / "cache"))
    assert asked == [BATCH] * 3
    assert not (first / "features").exists()
    second = distill("second", teacher_views=1, teacher_cache=str(tmp_path / "cache"))
    assert asked == [BATCH] * 3
    assert_same(uncached, first)
    assert_same(first, second)


def test_damaged_features_are_refused(distill, tmp_path):
    cache = tmp_path / "cache"
    distill("first", teacher_views=1, teacher_cache=str(cache))
    (view,) = cache.rglob("view-0000.features")
    with view.open("r+b") as file:
        file.seek(view.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 8]))
    with pytest.raises(CheckpointError, match=r"features of another check sum[\s\S]*remove"):
        distill("second", teacher_views=1, teacher_cache=str(cache))


def test_room_is_told_before_the_first_step(distill, tmp_path, capsys):
    distill("run", teacher_views=1, quiet=False)
    told = capsys.readouterr().out
    assert "features of 1 views of 36 images are kept in" in told.split("step", 1)[0]
    assert list((tmp_path / "run" / "features").iterdir())


def test_whatever_decides_the_features_has_its_own_cache(trained, class_folders, tmp_path):
    config = override(
        find_recipe("tokenizer", "vqkd-tiny", TokenizerRunConfig),
        {"out": str(tmp_path), "teacher": str(trained.pretrained), "teacher_views": 2},
    )
    teacher, other = open_teacher(config.teacher), open_teacher(config.teacher)
    elsewhere = open_teacher(str(Path(trained.pretrained) / "model"))
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    statistics = open_teacher(config.teacher)
    statistics.std *= 2
    fp32, source = torch.float32, open_source(str(class_folders))
    part = open_source(str(class_folders / "disc"))

    def folder(teacher=teacher, precision=fp32, source=source, **changes: Any) -> Path:
        changed = override(config, changes)
        built = rebuilding(changed.tokenizer, teacher)
        return feature_cache(changed, built, teacher, precision, source).folder

    folders = [
        folder(), folder(teacher=other), folder(teacher=statistics),
        folder(precision=torch.bfloat16), folder(source=part), folder(crop_scale=(0.3, 0.9)),
        folder(jitter=0.13), folder(seed=1), folder(size=(16, 16)),
    ]  # fmt: skip
    assert len(set(folders)) == len(folders)
    assert folder(teacher=elsewhere) == folders[0]
    assert folder(teacher_views=5) == folder(codes=8) == folder(lr=0.1) == folders[0]


def test_options_that_would_do_nothing_are_refused():
    for recipe, options, problem in (
        ("vqkd-tiny", {"teacher_cache": "cache"}, r"keeps no features[\s\S]*--teacher-views"),
        ("vqkd-tiny", {"teacher_views": -1}, "teacher_views is -1"),
        ("vq-tiny", {"teacher_views": 1}, "a VQConfig has no teacher"),
    ):
        with pytest.raises(ConfigError, match=problem):
            override(find_recipe("tokenizer", recipe, TokenizerRunConfig), options)
