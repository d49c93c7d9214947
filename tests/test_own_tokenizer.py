"""The tokenizer that pre-training trains for itself, on data where one collapses."""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import Any

import numpy as np
import pytest
from PIL import Image

import beit
from beit.errors import ConfigError, Preempted, RunFolderError
from beit.objectives.tokenizer import TokenizerObjective
from beit.training.run_folder import read_run_config
from beit.weights.store import read_described

QUICK: dict[str, Any] = {
    "workers": 0, "quiet": True, "report": False, "device": "cpu", "precision": "fp32",
    "knn_images": 0, "steps": 2, "tracker": ("none",),
}  # fmt: skip


def disc(chance, low, high):
    """A disc at random, as booleans of 48 x 48."""
    y, x = np.mgrid[:48, :48]
    centre, radius = chance.uniform(12, 36, 2), chance.uniform(low, high)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def background(chance):
    """White, but for a speckled disc on one part in twenty."""
    pixels = np.full((48, 48, 3), 255.0)
    inside = disc(chance, 4, 7)
    pixels[inside] = chance.uniform(0, 200, 3) + chance.normal(0, 25, (inside.sum(), 3))
    return pixels


def two_colours(chance):
    return np.where(disc(chance, 6, 14)[..., None], (200, 30, 40), (240, 240, 230))


@pytest.mark.parametrize("paint", [background, two_colours])
def test_plain_images_have_a_tokenizer_in_the_end(tmp_path, paint):
    """Without an option and without a second command."""
    chance = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(48):
        pixels = paint(chance).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    run = beit.pretrain("tiny", data=str(tmp_path / "images"), out=str(tmp_path / "run"), **QUICK)
    used = read_run_config(run.folder).tokenizer
    assert not read_described(used + "/model").details.trained["metrics"]["collapsed"]


@pytest.fixture
def collapsed(class_folders, trained, tmp_path):
    """A finished tokenizer where the next run looks for its own, which has collapsed."""
    place = shutil.copytree(trained.tokenizer, tmp_path / "run-tokenizer")
    config = json.loads((place / "model" / "config.json").read_text())
    config["trained"]["metrics"] |= {"collapsed": 1.0, "perplexity": 1.2}
    (place / "model" / "config.json").write_text(json.dumps(config))
    return place


def test_a_collapsed_one_is_not_taken_up_again(collapsed, class_folders, tmp_path, caplog):
    run = beit.pretrain("tiny", data=str(class_folders), out=str(tmp_path / "run"), **QUICK)
    assert read_run_config(run.folder).tokenizer == f"{collapsed}-2"
    assert "has collapsed" in caplog.text
    assert "k-means" in caplog.text


def test_one_that_was_named_is_refused_with_the_command_that_mends_it(
    collapsed, class_folders, tmp_path
):
    with pytest.raises(ConfigError, match=r"beit tokenizer kmeans --data .* --patch 4") as refused:
        beit.pretrain(
            "tiny", data=str(class_folders), out=str(tmp_path / "other"), tokenizer=str(collapsed),
            **QUICK,
        )  # fmt: skip
    assert "balance-weight" not in str(refused.value)


def test_stopped_in_the_tokenizer_the_same_command_with_resume_goes_on(
    class_folders, tmp_path, monkeypatch, capsys
):
    """As the error says; the run itself was not begun then."""
    done = TokenizerObjective.after_step

    def after_step(self, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return done(self, step)

    out = tmp_path / "run"
    given = QUICK | {"data": str(class_folders), "out": str(out)}
    with monkeypatch.context() as patch:
        patch.setattr(TokenizerObjective, "after_step", after_step)
        with pytest.raises(Preempted, match=r"after step 1 of[\s\S]*--resume"):
            beit.pretrain("tiny", **given)
    assert not out.exists()
    tokenizer = tmp_path / "run-tokenizer"
    assert not (tokenizer / "model").exists()
    with pytest.raises(RunFolderError, match="was not begun yet, only that of its tokenizer") as no:
        beit.pretrain(out=out, resume=True)
    assert "with --data and all of its options" in no.value.remedy
    beit.pretrain("tiny", resume=True, **{**given, "quiet": False})
    assert "has not started yet: the run before it is resumed first" in capsys.readouterr().out
    assert read_run_config(out).tokenizer == str(tokenizer)
    assert "going on after step 1" in (tokenizer / "log.txt").read_text()


def test_without_anything_begun_resume_is_refused(class_folders, tmp_path):
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        beit.pretrain(
            "tiny", data=str(class_folders), out=str(tmp_path / "run"), resume=True, **QUICK
        )
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        beit.pretrain(out=tmp_path / "run", resume=True)  # which is not about its images
