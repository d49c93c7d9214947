"""`beit pretrain contrastive-tiny` to a classifier; stopped and resumed; in two processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

import beit
from beit.cli import main
from beit.config import ContrastiveConfig, PretrainRunConfig
from beit.config.tree import override
from beit.errors import ConfigError, Preempted
from beit.objectives.contrastive import ContrastiveMaskedModeling
from beit.recipes import find_recipe
from beit.weights.store import load_artifact
from finished import assert_same, losses
from ranks import together

QUICK: dict[str, Any] = {
    "accept_collapsed": True, "workers": 0, "quiet": True, "report": False, "device": "cpu",
    "precision": "fp32", "knn_images": 0, "warmup_steps": 1, "log_every": 1, "steps": 6,
    "average": 0.9, "drop_path": 0.2, "batch": 12, "epsilon": 1e-4,
}  # fmt: skip


def pretrain(rank: int, data: str, tokenizer: str, out: str, options: dict[str, Any]) -> Path:
    given = QUICK | {"data": data, "tokenizer": tokenizer} | options
    return beit.pretrain("contrastive-tiny", out=out, **given).folder


@pytest.mark.slow
def test_from_the_command_line_to_a_classifier(trained, class_folders, tmp_path):
    out = tmp_path / "run"
    words = [
        "pretrain", "contrastive-tiny", "--data", class_folders, "--out", out, "--tokenizer",
        trained.tokenizer, "--accept-collapsed", "--steps", 40, "--log-every", 1, "--workers", 0,
        "--device", "cpu", "--precision", "fp32", "--knn-images", 0, "--contrast-weight", 0.5,
        "--quiet",
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    curve = losses(out, "contrast_loss")
    assert sum(curve[-5:]) < 0.95 * sum(curve[:5])
    assert load_artifact(out).kind == "masked"
    page = (out / "report.html").read_text()
    assert "contrast" in page
    assert 'id="predictions"' in page
    fine = beit.finetune(
        "tiny", data=str(class_folders), init=str(out), out=str(tmp_path / "fine"), steps=2,
        workers=0, quiet=True, report=False, device="cpu", precision="fp32", warmup_steps=1,
    )  # fmt: skip
    assert load_artifact(fine.folder).kind == "classifier"


def test_stopped_and_resumed_equals_uninterrupted(trained, class_folders, tmp_path, monkeypatch):
    def run(name: str, **options: Any) -> Path:
        places = str(class_folders), str(trained.tokenizer), str(tmp_path / name)
        return pretrain(0, *places, {"micro_batch": 6} | options)

    def after_step(self, step):
        if step + 1 == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(ContrastiveMaskedModeling, "after_step", after_step)
        with pytest.raises(Preempted):
            run("run")
    assert_same(whole, run("run", resume=True))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["off", "blocks"])
def test_two_processes_equal_one(sharding, trained, class_folders, tmp_path):
    """As long as each takes its part of the batch at once: they contrast with all of it."""
    data, tokenizer = str(class_folders), str(trained.tokenizer)
    one = pretrain(0, data, tokenizer, str(tmp_path / "one"), {})
    two = tmp_path / "two"
    together(pretrain, data, tokenizer, str(two), {"sharding": sharding})
    for term in ("loss", "contrast_loss"):
        assert losses(two, term) == pytest.approx(losses(one, term), abs=1e-5)
    expected, found = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    for name, tensor in expected.items():
        assert_close(tensor, found[name], atol=1e-5, rtol=1e-5, msg=name)


def test_it_starts_from_a_model_without_a_projection(trained, class_folders, tmp_path):
    data, tokenizer = str(class_folders), str(trained.tokenizer)
    start = pretrain(0, data, tokenizer, str(tmp_path / "start"), {"steps": 2})
    places = data, tokenizer, str(tmp_path / "more")
    more = pretrain(0, *places, {"steps": 2, "init": str(start)})
    log = (more / "log.txt").read_text()
    assert "taken from" in log
    assert "new, with initial weights: projection of class tokens" in log


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"relative_position": "shared"}, "one table of all pairs[\\s\\S]*--kept 1"),
        ({"absolute_position": False}, "one table of all pairs"),
        ({"kept": 0.0}, "kept is 0"),
        ({"second_crop": (0.5, 0.2)}, "second_crop"),
        ({"temperature": 0.0}, "temperature"),
        ({"contrast_weight": 0.0}, "contrast_weight"),
    ],
)
def test_what_does_not_go_together_is_refused(options, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        override(find_recipe("pretrain", "contrastive-tiny", PretrainRunConfig), options)
    assert caught.value.remedy


def test_with_all_patches_any_backbone_serves():
    recipe = find_recipe("pretrain", "contrastive-tiny", PretrainRunConfig)
    whole = override(recipe, {"kept": 1.0, "relative_position": "shared"})
    assert isinstance(whole.objective, ContrastiveConfig)
    assert whole.model.relative_position == "shared"
