"""docs/multi-label.md: its commands and its snippet run as they stand, on few steps."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import several_labels
from beit.cli import main
from beit.config.data import Division
from beit.data.dataset import Dataset
from beit.data.labelled import divide
from beit.objectives.classify import smooth_labels
from several_labels import LABELS

PAGE = (Path(__file__).parents[1] / "docs" / "multi-label.md").read_text()
SHORT = ["--steps", "3", "--warmup-steps", "1", "--batch", "8", "--workers", "0"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images in the folders of their labels, and one more."""
    several_labels.write(tmp_path / "tagged", 40)
    shutil.copy(next((tmp_path / "tagged").rglob("*.png")), tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs(place: Path, capsys: pytest.CaptureFixture[str], unchecked: None) -> None:
    lines = [shlex.split(line)[1:] for line in re.findall(r"^beit .*$", PAGE, re.MULTILINE)]
    assert [line[0] for line in lines] == ["finetune", "evaluate", "predict", "predict", "export"]
    for verb, *rest in lines:
        words = [verb, "tiny", *rest, *SHORT] if verb == "finetune" else [verb, *rest]
        assert main(words) == 0, (words, capsys.readouterr().err)
    out = capsys.readouterr().out
    (answer,) = (json.loads(line) for line in out.splitlines() if line.startswith("{"))
    assert answer["image"] == "image.jpg"
    assert {line.split(",")[1] for line in out.splitlines() if line.startswith("image.jpg,")} == {
        *LABELS
    }
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found: dict[str, object] = {}
    exec(snippet, found)  # noqa: S102 (of our own page)
    assert isinstance(every := found["every"], list)
    assert {label.name for label in every} == set(LABELS)


def test_what_the_page_says_of_smoothing_and_division(place: Path) -> None:
    smoothed = smooth_labels(torch.tensor([0.0, 1.0]), 0.1)
    assert smoothed.tolist() == pytest.approx([0.05, 0.95])
    chosen = divide(
        Dataset("tagged"), Division(split=0.2, seed=0, per_class=5), multi_label=True
    ).train
    assert chosen.targets is not None
    assert (chosen.targets.sum(axis=0) >= 5).all()
    assert len(chosen) <= 15
