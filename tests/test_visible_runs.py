"""Visible-only prediction from the command line to a classifier; stopped and resumed."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import beit
from beit.cli import main
from beit.config import (
    PretrainRunConfig,
    PublishedBlockMasking,
    UniformMasking,
    VisibleConfig,
)
from beit.config.tree import override
from beit.errors import ConfigError, Preempted
from beit.objectives.visible import VisibleOnlyPrediction
from beit.recipes import find_recipe
from beit.report.pretraining import write_strip
from beit.tasks.pretraining import PRETRAIN
from beit.tokenizers.teachers import OurTeacher
from beit.training.run_folder import read_run_config
from beit.weights.load import open_artifact
from beit.weights.store import load_artifact, read_described
from finished import assert_same, losses

QUICK: dict[str, Any] = {
    "accept_collapsed": True, "workers": 0, "quiet": True, "report": False, "device": "cpu",
    "precision": "fp32", "knn_images": 0, "warmup_steps": 1, "log_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(trained, class_folders, tmp_path_factory) -> Path:
    """A run of the command."""
    out = tmp_path_factory.mktemp("visible") / "run"
    words = [
        "pretrain", "visible-tiny", "--data", class_folders, "--out", out, "--tokenizer",
        trained.tokenizer, "--accept-collapsed", "--steps", 40, "--log-every", 1, "--workers", 0,
        "--device", "cpu", "--precision", "fp32", "--knn-images", 20, "--quiet",
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    return out


def test_the_loss_falls_and_a_backbone_is_left(pretrained):
    curve = losses(pretrained)
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    assert read_run_config(pretrained).objective == VisibleConfig(
        decoder_width=24, decoder_depth=1, decoder_heads=3
    )
    artifact = load_artifact(pretrained)
    assert artifact.kind == "backbone"
    assert read_described(pretrained).details.tokenizer
    assert not any("decoder" in name for name in artifact.model.state_dict())


def test_it_is_never_called_beit(pretrained):
    """Nor are predictions shown, as nothing that predicts is kept."""
    page = (pretrained / "report.html").read_text()
    assert "Visible-only pre-training" in page
    assert "BEiT" not in re.sub("<style>.*?</style>|<script>.*?</script>", "", page, flags=re.S)
    assert 'id="attention"' in page
    assert 'id="predictions"' not in page
    assert PRETRAIN.examples(pretrained, read_run_config(pretrained)).keys == ()
    with pytest.raises(ConfigError, match="is a backbone alone"):
        write_strip(pretrained, pretrained / "strip.png")


def test_the_backbone_is_used_like_any(pretrained, class_folders, tmp_path):
    fine = beit.finetune(
        "tiny", data=str(class_folders), init=str(pretrained), out=str(tmp_path / "fine"), steps=2,
        **{name: value for name, value in QUICK.items()
           if name not in ("knn_images", "accept_collapsed")},
    )  # fmt: skip
    backbone = load_artifact(fine.folder).backbone
    assert (backbone.absolute_position, backbone.relative_position) == (True, "none")
    words = ["probe", pretrained, "--data", class_folders, "--out", tmp_path / "probe", "--recipe",
             "tiny", "--workers", 0]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    image = class_folders / "disc" / "00.png"
    assert beit.load(pretrained).embed([image]).shape == (1, backbone.width)
    teacher = OurTeacher("ours", open_artifact(pretrained).model)
    assert teacher.model["norm"] is not None
    assert teacher.width == backbone.width


@pytest.fixture
def pretrain(trained, class_folders, tmp_path):
    def run(name: str, **changes: Any) -> Path:
        given = QUICK | {
            "data": str(class_folders), "tokenizer": str(trained.tokenizer), "steps": 6,
            "average": 0.9, "drop_path": 0.2, "batch": 12, "micro_batch": 6,
        } | changes  # fmt: skip
        return beit.pretrain("visible-tiny", out=str(tmp_path / name), **given).folder

    return run


def test_stopped_and_resumed_equals_uninterrupted(pretrain, monkeypatch):
    def after_step(self, step):
        if step + 1 == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    whole = pretrain("whole")
    with monkeypatch.context() as patch:
        patch.setattr(VisibleOnlyPrediction, "after_step", after_step)
        with pytest.raises(Preempted):
            pretrain("run")
    assert_same(whole, pretrain("run", resume=True))


def test_it_goes_on_from_a_backbone_alone_and_with_half_precision(pretrain, pretrained):
    run = pretrain("more", init=str(pretrained), precision="bf16", target="pixels", steps=2)
    assert load_artifact(run).kind == "backbone"


def test_masked_image_modeling_goes_on_from_a_backbone_alone(
    pretrained, class_folders, trained, tmp_path
):
    run = beit.pretrain(
        "tiny", data=str(class_folders), tokenizer=str(trained.tokenizer), init=str(pretrained),
        out=str(tmp_path / "run"), steps=2, **QUICK,
    )  # fmt: skip
    assert load_artifact(run.folder).kind == "masked"


def test_recipes():
    small = find_recipe("pretrain", "visible-small", PretrainRunConfig)
    assert isinstance(small.objective, VisibleConfig)
    assert small.masking == UniformMasking(mask_ratio=0.75)
    ordinary = find_recipe("pretrain", "small", PretrainRunConfig)
    assert small.training == ordinary.training
    assert replace(small.model, mask_token=True) == ordinary.model


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"relative_position": "shared"}, "one table of all pairs"),
        ({"absolute_position": False}, "one table of all pairs"),
        ({"mask_token": True}, "has a mask token[\\s\\S]*--no-mask-token"),
        ({"masking": PublishedBlockMasking()}, "hides at most a number"),
        ({"mask_ratio": 0.0}, "mask_ratio is 0"),
        ({"early_layer": 2}, "early_layer is 2, and patch aggregation"),
        ({"decoder_heads": 5}, "decoder_width 24 cannot be divided among 5"),
        ({"decoder_depth": 0}, "decoder_depth"),
        ({"predict": "all"}, "no option 'predict'"),
    ],
)
def test_what_does_not_go_together_is_refused(options, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        override(find_recipe("pretrain", "visible-tiny", PretrainRunConfig), options)
    assert caught.value.remedy
