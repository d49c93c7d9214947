"""What a run that goes on takes from its folder, what it may be told anew, and what is refused
before any work."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

import beit
from beit.errors import CheckpointError, RunFolderError
from beit.tasks import Inputs, own_tokenizer
from beit.training.run_folder import read_run_config

OPTIONS: dict[str, Any] = {
    "workers": 0, "quiet": True, "report": False, "device": "cpu", "precision": "fp32",
    "accept_collapsed": True, "batch": 4, "warmup_steps": 1, "tracker": ("none",), "log_every": 1,
}  # fmt: skip


@pytest.fixture
def begun(class_folders, trained, tmp_path, monkeypatch):
    """A run of two steps with a tokenizer that then may move; nobody trains another."""
    monkeypatch.setattr(
        own_tokenizer, "matching_tokenizer", lambda *_: pytest.fail("trains another")
    )
    shutil.copytree(trained.tokenizer, tmp_path / "tokenizer")
    pretrain(class_folders, tmp_path, tokenizer=str(tmp_path / "tokenizer"), steps=2)
    return tmp_path


def pretrain(data, folder, **options):
    given = {"data": str(data), "out": str(folder / "run")} | OPTIONS | options
    return beit.pretrain("tiny", **given)


def steps(folder) -> list[int]:
    rows = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if row["kind"] == "train"]


def test_a_run_goes_on_with_the_tokenizer_it_has_and_for_longer(begun, class_folders):
    pretrain(class_folders, begun, resume=True, steps=4)
    assert steps(begun) == [1, 2, 3, 4]
    assert "4 steps instead of 2" in (begun / "run" / "log.txt").read_text()
    assert read_run_config(begun / "run").training.steps == 4


def test_the_same_tokenizer_may_lie_elsewhere(begun, class_folders):
    (begun / "tokenizer").rename(begun / "moved")
    with pytest.raises(CheckpointError, match=r"the tokenizer of the run .* cannot be opened"):
        pretrain(class_folders, begun, resume=True, steps=3)
    assert steps(begun) == [1, 2]
    pretrain(class_folders, begun, resume=True, steps=3, tokenizer=str(begun / "moved"))
    assert steps(begun) == [1, 2, 3]
    assert read_run_config(begun / "run").tokenizer == str(begun / "moved")


def test_another_tokenizer_is_refused_before_the_config_names_it(begun, class_folders, tmp_path):
    other = tmp_path / "other"
    beit.tokenizer(
        "tiny", data=str(class_folders), out=str(other), steps=2, warmup_steps=1, seed=5, workers=0,
        quiet=True, report=False, device="cpu",
    )  # fmt: skip
    before = (begun / "run" / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="the tokenizer is not the one the run has learned"):
        pretrain(class_folders, begun, resume=True, steps=3, tokenizer=str(other))
    assert (begun / "run" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 3, "warmup_steps": 0}, "warmup_steps"),
        ({"steps": 2, "lr": 0.5}, "lr"),
        ({"steps": 3, "lr": 0.5}, "lr"),
    ],
)
def test_what_cannot_go_on_is_refused_before_work(begun, class_folders, monkeypatch, options, told):
    monkeypatch.setattr(Inputs, "images", lambda *_: pytest.fail("reads images"))
    with pytest.raises(RunFolderError, match=f"other settings.*{told}"):
        pretrain(class_folders, begun, resume=True, **options)


def test_a_run_is_not_made_shorter(begun, class_folders):
    pretrain(class_folders, begun, resume=True, steps=4)
    with pytest.raises(RunFolderError, match=r"longer but not shorter: --steps is 3\n.*--steps 4"):
        pretrain(class_folders, begun, resume=True, steps=3)


def test_a_run_goes_on_by_its_own_verb_only(begun, tmp_path):
    """Also where nothing but its folder is given, which another verb would take for a new run."""
    refusal = (
        r"holds a run of `beit pretrain`, not of `beit finetune`(?s:.*)`beit pretrain --resume`"
    )
    for options in ({}, {"data": str(tmp_path)}):
        with pytest.raises(RunFolderError, match=refusal):
            beit.finetune(out=str(begun / "run"), resume=True, **options)


def test_resuming_where_no_run_is(class_folders, tmp_path):
    with pytest.raises(RunFolderError, match="holds no run to resume"):
        pretrain(class_folders, tmp_path, resume=True, steps=2)
    assert not list(tmp_path.iterdir())


def test_a_classifier_is_trained_for_longer_with_its_head(class_folders, trained, tmp_path):
    shutil.copytree(trained.classifier, tmp_path / "run")
    options = {name: OPTIONS[name] for name in ("workers", "quiet", "report", "device")}
    recorded = read_run_config(tmp_path / "run")
    found = beit.finetune(
        "tiny", data=recorded.data, init=str(trained.pretrained), out=str(tmp_path / "run"),
        precision="fp32", steps=6, resume=True, **options,
    )  # fmt: skip
    assert found.metrics
    assert "going on after step 4" in (tmp_path / "run" / "log.txt").read_text()
