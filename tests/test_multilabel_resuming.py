"""Runs with several labels per image that stop, go on, or are divided among processes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import beit
import several_labels
from beit.errors import Preempted
from beit.objectives.classify import MultiLabelClassification
from beit.weights.store import load_artifact
from finished import assert_same
from ranks import together
from several_labels import SHORT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 images in the folders of their labels, 140 of which have any."""
    root = tmp_path_factory.mktemp("labels") / "data"
    several_labels.write(root, 160, links=True)
    return root


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps that nothing stopped."""
    out = tmp_path_factory.mktemp("short") / "whole"
    beit.finetune("tiny", data=str(data), out=str(out), **SHORT)
    return out


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_stopped_and_resumed_equals_uninterrupted(data, whole, tmp_path, monkeypatch, stop_after):
    def after_step(self: object, step: int) -> dict[str, float]:
        if step + 1 == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(MultiLabelClassification, "after_step", after_step)
        with pytest.raises(Preempted):
            beit.finetune("tiny", data=str(data), out=str(stopped), **SHORT)
    beit.finetune("tiny", data=str(data), out=str(stopped), **SHORT, resume=True)
    assert_same(whole, stopped)
    for artifact in ("model", "last"):
        one, other = (load_artifact(run / artifact) for run in (whole, stopped))
        assert one.details == other.details
        assert one.version() == other.version()


def test_a_run_that_is_done_publishes_its_thresholds_again(data, tmp_path):
    """Resumed at its end, it has measured nothing itself."""
    beit.finetune("tiny", data=str(data), out=str(tmp_path / "run"), **SHORT)
    before = load_artifact(tmp_path / "run" / "last")
    beit.finetune("tiny", data=str(data), out=str(tmp_path / "run"), **SHORT, resume=True)
    after = load_artifact(tmp_path / "run" / "last")
    assert after.details == before.details


def test_a_level_that_no_rule_asks_for_is_named(data, tmp_path):
    for rule in ("f1", "precision"):
        out = tmp_path / rule
        beit.finetune(
            "tiny", data=str(data), out=str(out), threshold_by=rule, threshold_level=0.8, **SHORT
        )
        named = (
            "threshold_level 0.8 has no effect without --threshold-by"
            in (out / "log.txt").read_text()
        )
        assert named == (rule == "f1")


def test_copies_with_several_classes_suggest_several_labels(data, tmp_path):
    options = SHORT | {"multi_label": False, "steps": 2}
    beit.finetune("tiny", data=str(data), out=str(tmp_path / "run"), **options)
    note = r"note: [\d,]+ training images can be found in validation with another class: .*--multi"
    assert re.search(note, (tmp_path / "run" / "log.txt").read_text())


def train(rank: int, data: Path, out: Path, options: dict[str, Any]) -> dict[str, float]:
    return dict(beit.finetune("tiny", data=str(data), out=str(out), **options).metrics)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(data, tmp_path):
    options = SHORT | {"process_timeout": 120.0, "epsilon": 1e-4}
    alone = train(0, data, tmp_path / "one", options)
    both = together(train, data, tmp_path / "two", options)
    for found in both:
        assert found == pytest.approx(alone, abs=1e-3)
    one, two = (load_artifact(tmp_path / run / "last").details for run in ("one", "two"))
    assert one.thresholds == pytest.approx(two.thresholds, abs=1e-3)
    weights = [load_file(tmp_path / run / "last/model.safetensors") for run in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-4, rtol=1e-3)
