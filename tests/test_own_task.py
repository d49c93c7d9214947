"""A task with a head of its own, all in one file (docs/depth.py): trained, reported, loaded,
served; nothing of the package knows of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import beit
from beit.cli import main
from beit.errors import ConfigError
from beit.tasks import TASKS, register
from beit.weights.push import model_card
from beit.weights.store import read_artifact
from served import png, serving

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def run(class_folders, trained, tmp_path_factory):
    """A run of four steps that began with a pre-trained backbone and was stopped in its middle."""
    folder = tmp_path_factory.mktemp("depth")
    for image in class_folders.rglob("*.png"):
        place = folder / "depths" / image.relative_to(class_folders)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(image).convert("L").save(place)
    words = ["--import", "depth", "depth", "small", "--data", class_folders, "--depths",
             folder / "depths", "--init", trained.pretrained, "--out", folder / "run",
             "--warmup-steps", "1", "--batch", "4", "--workers", "0", "--device", "cpu",
             "--precision", "fp32", "--tracker", "none"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        assert main([*map(str, words), "--steps", "4", "--save-every", "2"]) == 0
        assert main([*map(str, words), "--steps", "6", "--save-every", "2", "--resume"]) == 0
        yield folder / "run"


def test_its_run_is_like_every_run(run, trained):
    log = (run / "log.txt").read_text()
    assert f"taken from {trained.pretrained}: backbone\n" in log
    assert "new, with initial weights: head\n" in log
    page = (run / "report.html").read_text()
    assert "beit --import depth depth small" in page
    assert "depth error" in page
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == page


def test_its_artifact_is_loaded_and_presented(run):
    predictor = beit.load(run)
    image = np.zeros((40, 50, 3), np.uint8)
    with torch.no_grad():
        depths = predictor.model(predictor.batch([image]))
    assert depths.shape == (1, *predictor.model.backbone.config.grid)
    assert predictor.embed([image]).shape[0] == 1
    assert "estimates the depth" in model_card(read_artifact(run), "me/depth")
    with pytest.raises(ConfigError, match="a depth model does not classify"):
        predictor.predict(image)


@pytest.mark.slow
def test_it_is_served(run, environment):
    path = f"{DOCS}{os.pathsep}{environment['PYTHONPATH']}"
    known = {"environment": environment | {"PYTHONPATH": path}, "before": ["--import", "depth"]}
    with serving(str(run), **known) as running:
        (model,) = running.ask("GET", "/models")[1]["models"]
        assert model["abilities"] == ["depth", "embed"]
        status, answer, _ = running.ask("POST", "/depth", png(1))
        assert status == 200
        assert len(answer["depth"]) == beit.load(run).model.backbone.config.grid[0]


def test_it_needs_depths(class_folders, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(DOCS))
    words = ["depth", "small", "--data", str(class_folders), "--out", str(tmp_path / "run")]
    assert main(["--import", "depth", *words]) == ConfigError.exit_code
    assert "add --depths FOLDER" in capsys.readouterr().err


def test_a_verb_and_a_config_belong_to_one_task():
    with pytest.raises(ConfigError, match="there is a task 'finetune'"):
        register(TASKS["finetune"])
